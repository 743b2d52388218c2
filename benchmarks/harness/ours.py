"""The forms this project serves, timed through `Predictor.predict` as users call it, checks included.

B batch, T context length, D vector.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.harness.contender import (
    Build,
    Contender,
    Runner,
    bf16_in_openvino,
    macos,
    needs,
    onnxruntime_on,
    torch_on,
)
from benchmarks.harness.workload import Workload
from lvm_runtime import Predictor
from lvm_runtime.backends.registry import backend_class

COMPUTE_UNITS = ("cpu", "gpu", "ane", "all")


def _served(backend: str, precision: str, device: str) -> Build:
    def build(workload: Workload, threads: int | None) -> Runner:
        cls = backend_class(backend)
        if cls.format is not None:
            computed = cls.precisions is not None  # the runtime lowers the precision of the fp32 file
            workload.export(cls.format, "fp32" if computed else precision)
        predictor = Predictor(
            workload.artifact.path, backend=backend, device=device, precision=precision, threads=threads
        )
        return predictor.predict

    return build


def _ours(backend: str, precision: str, device: str, missing: Callable[[], str | None]) -> Contender:
    suffix = "" if device == "cpu" and backend != "coreml" else f"-{device}"
    name = f"lvm-{backend}-{precision}{suffix}"
    return Contender(name, backend, precision, device, _served(backend, precision, device), missing, ours=True)


OURS = (
    _ours("onnx", "fp32", "cpu", needs("onnxruntime", "onnx", "onnxscript")),
    _ours("onnx", "int8", "cpu", needs("onnxruntime", "onnx", "onnxscript")),
    _ours("native", "fp32", "cpu", needs("lvm_runtime.native._engine", "safetensors")),
    _ours("native", "int8", "cpu", needs("lvm_runtime.native._engine", "safetensors")),
    _ours("openvino", "fp32", "cpu", needs("openvino", "onnx", "onnxscript")),
    _ours("openvino", "bf16", "cpu", bf16_in_openvino),
    _ours("torchscript", "fp32", "cpu", needs("torch")),
    _ours("eager", "fp32", "cpu", needs("torch")),
    *(_ours("coreml", "fp16", unit, macos) for unit in COMPUTE_UNITS),
    *(_ours(backend, "fp32", "mps", torch_on("mps")) for backend in ("torchscript", "eager")),
    *(_ours(backend, "fp32", "cuda", torch_on("cuda")) for backend in ("torchscript", "eager")),
    _ours("onnx", "fp32", "cuda", onnxruntime_on("CUDAExecutionProvider")),
    _ours("onnx", "fp32", "coreml", onnxruntime_on("CoreMLExecutionProvider")),
)
