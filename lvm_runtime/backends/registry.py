"""The list of backends, in the order of preference. Adding one: a file here, a line below, a row in the parity test."""

from __future__ import annotations

from importlib import import_module

from lvm_runtime.backends.base import Backend
from lvm_runtime.errors import InvalidInput

BACKENDS: dict[str, str] = {
    "onnx": "lvm_runtime.backends.onnx:OnnxBackend",
    "native": "lvm_runtime.backends.native:NativeBackend",
    "coreml": "lvm_runtime.backends.coreml:CoreMLBackend",
    "mlx": "lvm_runtime.backends.mlx:MlxBackend",
    "coreai": "lvm_runtime.backends.coreai:CoreAIBackend",
    "openvino": "lvm_runtime.backends.openvino:OpenVinoBackend",
    "torchscript": "lvm_runtime.backends.torchscript:TorchScriptBackend",
    "eager": "lvm_runtime.backends.eager:EagerBackend",
    "compiled": "lvm_runtime.backends.compiled:CompiledBackend",
}


def backend_class(name: str) -> type[Backend]:
    """Return the backend called `name`, without its framework; InvalidInput for a name that is none."""
    if name not in BACKENDS:
        raise InvalidInput(f"unknown backend {name!r}; expected auto or one of {', '.join(BACKENDS)}")
    module, _, attribute = BACKENDS[name].partition(":")
    cls: type[Backend] = getattr(import_module(module), attribute)
    return cls
