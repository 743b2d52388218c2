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

from lvm_runtime.backends.openvino import has_bf16, openvino_core
from lvm_runtime.system.cpus import usable_cpus

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


def _graph(nodes: list[Any], weights: dict[str, Any], dtype: int, size: int) -> bytes:
    """Return a model that multiplies its input `x` `[size, size]` by constants to `y`."""
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", dtype, [size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [size, size])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    return data


def _plain(right: Any) -> bytes:
    from onnx import TensorProto, helper

    return _graph([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": right}, TensorProto.FLOAT, len(right))


def _integers(right: Any) -> dict[str, Any]:
    """Return `right` as int8 with one scale per column, and the scale and zero point of a uint8 operand."""
    return {
        "w": np.clip(right * 40, -127, 127).astype(np.int8),
        "sx": np.float32(1 / 40),
        "zx": np.uint8(128),
        "sw": np.full(len(right), 0.02, np.float32),
    }


def _onnxruntime(left: Any, right: Any) -> dict[Key, Call]:
    import onnxruntime
    from onnx import TensorProto, helper

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cpus()
    product = helper.make_node("MatMulIntegerToFloat", ["x", "w", "sx", "sw", "zx"], ["y"], domain="com.microsoft")
    quantised = _graph([product], _integers(right), TensorProto.UINT8, len(right))
    inputs = {"fp32": left, "int8": np.clip(np.rint(left * 40) + 128, 0, 255).astype(np.uint8)}
    sides: dict[Key, Call] = {}
    for precision, model in (("fp32", _plain(right)), ("int8", quantised)):
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        sides["cpu", precision, "onnxruntime"] = partial(session.run, None, {"x": inputs[precision]})
    return sides


def _openvino(left: Any, right: Any) -> dict[Key, Call]:
    core = openvino_core()
    models = {"fp32": (_plain(right), "f32"), "int8": (_dequantised(right), "f32")}
    if has_bf16():
        models["bf16"] = (models["fp32"][0], "bf16")
    sides: dict[Key, Call] = {}
    for precision, (model, hint) in models.items():
        settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": usable_cpus()}
        request = core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()
        sides["cpu", precision, "openvino"] = partial(request.infer, {0: left}, share_inputs=True, share_outputs=True)
    return sides


def _dequantised(right: Any) -> bytes:
    """Return an int8 product as OpenVINO recognises one: operands that were integers, multiplied as floats."""
    from onnx import TensorProto, helper

    steps = [
        ("QuantizeLinear", ["x", "sx", "zx"], "integers"),
        ("DequantizeLinear", ["integers", "sx", "zx"], "left"),
        ("DequantizeLinear", ["w", "sw"], "right"),
        ("MatMul", ["left", "right"], "y"),
    ]
    nodes = [helper.make_node(op, inputs, [output]) for op, inputs, output in steps]
    return _graph(nodes, _integers(right), TensorProto.FLOAT, len(right))
