"""The list of backends. Adding one: a file here, a line below, a row in the parity test."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from lvm_runtime.backends.base import Backend
from lvm_runtime.errors import BackendUnavailable, InvalidInput


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """What is known of a backend before its framework is loaded.

    `format` is the kind of compiled file that it reads, None for the training weights themselves; `system` is the
    only operating system that it runs on (as `platform.system()` says it), None for all.
    """

    adapter: str
    format: str | None
    framework: str
    install: str
    system: str | None = None

    def missing(self) -> str | None:
        """Say why it cannot run here without importing its framework, or None if nothing is known against it."""
        if self.system not in (None, platform.system()):
            return f"Core ML runs on macOS only, and this is {platform.system()}"
        if find_spec(self.framework) is None:
            return f"it needs {self.framework}; install it with: {self.install}"
        return None


BACKENDS: dict[str, BackendInfo] = {
    "onnx": BackendInfo("lvm_runtime.backends.onnx:OnnxBackend", "onnx", "onnxruntime", "pip install onnxruntime"),
    "coreml": BackendInfo(
        "lvm_runtime.backends.coreml:CoreMLBackend",
        "coreml",
        "coremltools",
        "pip install 'lvm_runtime[coreml]'",
        system="Darwin",
    ),
    "torchscript": BackendInfo(
        "lvm_runtime.backends.torchscript:TorchScriptBackend",
        "torchscript",
        "torch",
        "pip install 'lvm_runtime[torch]'",
    ),
    "eager": BackendInfo("lvm_runtime.backends.eager:EagerBackend", None, "torch", "pip install 'lvm_runtime[torch]'"),
}


def backend_info(name: str) -> BackendInfo:
    """Return what is known of the backend called `name`; InvalidInput for a name that is none."""
    if name not in BACKENDS:
        raise InvalidInput(f"unknown backend {name!r}; expected auto or one of {', '.join(BACKENDS)}")
    return BACKENDS[name]


def require_backend(name: str) -> BackendInfo:
    """Return what is known of the backend called `name`; BackendUnavailable if it cannot run here."""
    info = backend_info(name)
    if problem := info.missing():
        raise BackendUnavailable(f"backend {name} is not available: {problem}")
    return info


def backend_class(name: str) -> type[Backend]:
    """Import and return the adapter called `name`.

    Raises BackendUnavailable where it cannot run, InvalidInput for an unknown name.
    """
    info = require_backend(name)
    module, _, attribute = info.adapter.partition(":")
    cls: type[Backend] = getattr(import_module(module), attribute)
    return cls
