"""Programs of one operation, and tensors to run them on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.mil_reference import Evaluator
from lvm_runtime.coreml.package import import_coremltools

import_coremltools()
from coremltools.converters.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.mil import types  # noqa: E402

Array = NDArray[Any]
X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
Y = np.random.default_rng(2).standard_normal((2, 3, 4)).astype(np.float32)
IMAGE = np.random.default_rng(1).standard_normal((2, 4, 7, 6)).astype(np.float32)
TOLERANCE = 1e-6


# one signature per input count: coremltools counts the parameters of the function that it decorates
def run(build: Callable[..., Any], *inputs: Array, target: Any = None) -> list[Array]:
    """Evaluate `build` on up to three inputs."""
    wrappers: list[Callable[..., Any]] = [lambda a: build(a), lambda a, b: build(a, b), lambda a, b, c: build(a, b, c)]
    import coremltools as ct

    kinds = {"f": types.fp32, "i": types.int32, "b": types.bool}
    specs = [mb.TensorSpec(shape=array.shape, dtype=kinds[array.dtype.kind]) for array in inputs]
    decorate = mb.program(input_specs=specs, opset_version=target or ct.target.iOS17)
    program = decorate(wrappers[len(inputs) - 1])
    return list(Evaluator(program)(dict(zip(program.functions["main"].inputs, inputs, strict=True))).values())


def t(array: Array) -> torch.Tensor:
    """Return `array` as a float64 tensor, integers as they are."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.double() if tensor.is_floating_point() else tensor.long()
