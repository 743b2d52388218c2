"""Square matrix products in every library at hand, for the ceiling of the product rate.

Keys are (device, precision, library); values multiply two `size` × `size` matrices, the second one
constant where a library can prepare it, as it does for the weights of a model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.contenders import bf16_in_openvino
from lvm_runtime.hardware import usable_cpus

Call = Callable[[], Any]
Key = tuple[str, str, str]


def cpu_products(size: int) -> dict[Key, Call]:
    """Return the products that run on the CPU, with as many threads as this process may use."""
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((size, size)).astype(np.float32) for _ in range(2))
    sides: dict[Key, Call] = {("cpu", "fp32", "numpy"): partial(np.matmul, left, right)}
    if find_spec("torch"):
        sides |= _torch_cpu(left, right)
    if find_spec("onnx"):
        sides |= _onnxruntime(left, right)
        if find_spec("openvino"):
            sides |= _openvino(left, right)
    return sides


def device_products(size: int) -> dict[Key, Call]:
    """Return the products on the GPUs that PyTorch sees; each waits for its result."""
    if not find_spec("torch"):
        return {}
    import torch

    sides: dict[Key, Call] = {}
    for device, present, wait in (
        ("cuda", torch.cuda.is_available(), torch.cuda.synchronize),
        ("mps", torch.backends.mps.is_available(), torch.mps.synchronize),
    ):
        for precision, dtype in (("fp32", torch.float32), ("fp16", torch.float16)) if present else ():
            left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
            sides[device, precision, "torch"] = partial(_and_wait, partial(torch.mm, left, right), wait)
    return sides


def _and_wait(call: Call, wait: Call) -> None:
    call()
    wait()


def _torch_cpu(left: Any, right: Any) -> dict[Key, Call]:
    import torch

    torch.set_num_threads(usable_cpus())
    a, b = torch.from_numpy(left), torch.from_numpy(right)
    sides: dict[Key, Call] = {
        ("cpu", "fp32", "torch"): partial(torch.mm, a, b),
        ("cpu", "bf16", "torch"): partial(torch.mm, a.bfloat16(), b.bfloat16()),
    }
    integers = [torch.randint(-127, 127, a.shape, dtype=torch.int8) for _ in range(2)]
    if hasattr(torch, "_int_mm"):
        sides["cpu", "int8", "torch"] = partial(torch._int_mm, *integers)
    return sides


def _graph(op: str, weights: dict[str, Any], inputs: list[str], dtype: int, size: int, domain: str = "") -> bytes:
    """Return a model of one node that multiplies its input `x` `[n, size]` by constants."""
    from onnx import TensorProto, helper, numpy_helper

    node = helper.make_node(op, inputs, ["y"], domain=domain)
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", dtype, [size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [size, size])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    return data


def _onnxruntime(left: Any, right: Any) -> dict[Key, Call]:
    import onnxruntime
    from onnx import TensorProto

    size = len(left)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cpus()
    plain = _graph("MatMul", {"w": right}, ["x", "w"], TensorProto.FLOAT, size)
    quantised = _graph(
        "MatMulIntegerToFloat",
        {
            "w": np.clip(right * 40, -127, 127).astype(np.int8),
            "sx": np.float32(0.01),
            "sw": np.full(size, 0.02, np.float32),
            "zx": np.uint8(128),
        },
        ["x", "w", "sx", "sw", "zx"],
        TensorProto.UINT8,
        size,
        "com.microsoft",
    )
    inputs = {"fp32": left, "int8": np.clip(left * 40 + 128, 0, 255).astype(np.uint8)}
    sides: dict[Key, Call] = {}
    for precision, model in (("fp32", plain), ("int8", quantised)):
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        sides["cpu", precision, "onnxruntime"] = partial(session.run, None, {"x": inputs[precision]})
    return sides


def _openvino(left: Any, right: Any) -> dict[Key, Call]:
    import openvino
    from onnx import TensorProto

    core = openvino.Core()
    hints = {"fp32": "f32"} | ({} if bf16_in_openvino() else {"bf16": "bf16"})
    model = core.read_model(_graph("MatMul", {"w": right}, ["x", "w"], TensorProto.FLOAT, len(left)))
    sides: dict[Key, Call] = {}
    for precision, hint in hints.items():
        settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": usable_cpus()}
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        sides["cpu", precision, "openvino"] = partial(request.infer, {0: left}, share_inputs=True, share_outputs=True)
    return sides
