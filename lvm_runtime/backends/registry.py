"""The list of backends. Adding one: a file here, a line below, a row in the parity test."""

from __future__ import annotations

from importlib import import_module

from lvm_runtime.backends.base import Backend
from lvm_runtime.errors import InvalidInput

BACKENDS: dict[str, str] = {
    "eager": "lvm_runtime.backends.eager:EagerBackend",
    "torchscript": "lvm_runtime.backends.torchscript:TorchScriptBackend",
    "onnx": "lvm_runtime.backends.onnx:OnnxBackend",
    "coreml": "lvm_runtime.backends.coreml:CoreMLBackend",
}


def backend_class(name: str) -> type[Backend]:
    """Import and return the adapter called `name`; its framework is imported later, by its constructor."""
    if name not in BACKENDS:
        raise InvalidInput(f"unknown backend {name!r}; expected one of {', '.join(BACKENDS)}")
    module, _, attribute = BACKENDS[name].partition(":")
    cls: type[Backend] = getattr(import_module(module), attribute)
    return cls
