"""From a torch module to a Core ML package on disk.

B batch, T context length, D vector.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lvm_runtime.coreml.package import import_coremltools
from lvm_runtime.errors import LvmError, one_line

from .compress import compressed
from .options import CoreMLOptions


def write_package(module: nn.Module, options: CoreMLOptions, shape: tuple[int, int], path: Path) -> None:
    """Convert `module` (contexts `[B, T, D]` to a prediction, or to prediction and attention) into `path`.

    `shape` is (T, D). Raises LvmError with coremltools' own message if it cannot convert.
    """
    save_functions({name: convert(module, options, shape, sizes) for name, sizes in options.programs.items()}, path)


def save_functions(models: Mapping[str, Any], path: Path) -> None:
    """Write MLModels by function name as one package: a single "main" as it is, others sharing their weights."""
    if list(models) == ["main"]:
        save(models["main"], path)
        return
    ct = import_coremltools()
    description = ct.utils.MultiFunctionDescriptor()
    with tempfile.TemporaryDirectory() as folder, quiet():
        for name, model in models.items():
            single = Path(folder) / f"{name}.mlpackage"
            save(model, single)
            description.add_function(str(single), "main", name)
        description.default_function_name = next(iter(models))
        ct.utils.save_multifunction(description, str(path))


def convert(module: nn.Module, options: CoreMLOptions, shape: tuple[int, int], batch_sizes: Sequence[int]) -> Any:
    """Return the `coremltools.models.MLModel` of one function that takes `batch_sizes`."""
    ct = import_coremltools()
    half = options.precision == "fp16"
    dtype = np.float16 if half else np.float32
    shapes = [(size, *shape) for size in batch_sizes]
    with quiet():
        traced, outputs = trace(module, shapes[0])
        try:
            model = ct.convert(
                traced,
                inputs=[ct.TensorType("context", shapes[0] if len(shapes) == 1 else _enumerated(shapes), dtype=dtype)],
                outputs=[ct.TensorType(name, dtype=dtype) for name in ("prediction", "attention")[:outputs]],
                minimum_deployment_target=getattr(ct.target, str(options.target)),
                compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
                pass_pipeline=_pipeline(options.gelu),
                skip_model_load=True,
            )
        except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
            raise LvmError(
                f"coremltools {ct.__version__} cannot convert this {type(module).__name__}: {one_line(error)}"
            ) from error
        return compressed(model, options.compress)


def trace(module: nn.Module, shape: tuple[int, ...]) -> tuple[Any, int]:
    """Trace `module` on zeros of `shape`; return the traced module and its number of outputs."""
    contexts = torch.zeros(shape)
    with torch.no_grad():
        outputs = module(contexts)
        traced = torch.jit.trace(module, contexts, check_trace=False)
    return traced, len(outputs) if isinstance(outputs, tuple) else 1


def save(model: Any, path: Path) -> None:
    """Write an MLModel as a package, in place of one that is there."""
    with quiet():
        model.save(str(path))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what torch and coremltools say about themselves during a conversion, and nothing else.

    coremltools logs that this torch version is newer than those it was tested with; every package made here is
    compared with its training form instead. It shows its passes as progress bars of its own.
    """
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), _no_bars():
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\..*|coremltools\..*")
            warnings.filterwarnings("ignore", message=".*torch.jit.*")
            warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"coremltools\..*")
            # coremltools leaves its temporary folders to the garbage collector
            warnings.filterwarnings("ignore", message="Implicitly cleaning up", category=ResourceWarning)
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Switch off tqdm bars, by the switch that tqdm reads when a bar is made."""
    import tqdm

    original = tqdm.tqdm.__init__

    def silent(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **{**kwargs, "disable": True})

    tqdm.tqdm.__init__ = silent  # type: ignore[method-assign]
    try:
        yield
    finally:
        tqdm.tqdm.__init__ = original  # type: ignore[method-assign]


def _enumerated(shapes: Sequence[tuple[int, ...]]) -> Any:
    ct = import_coremltools()
    return ct.EnumeratedShapes(shapes=shapes, default=shapes[0])


def _pipeline(gelu: str) -> Any:
    ct = import_coremltools()
    pipeline = ct.PassPipeline.DEFAULT
    if gelu == "erf":
        pipeline.remove_passes({"common::fuse_gelu_exact"})
    return pipeline
