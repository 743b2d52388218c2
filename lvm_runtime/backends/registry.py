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
    only operating system that it runs on (as `platform.system()` says it), None for all. `precisions` are what it
    makes of a full-precision file; None means that a file runs in the precision that it was made in. A `light`
    framework loads in a few hundredths of a second, so that its forms may be tried while a Predictor is built;
    one that is `slow_to_build` takes so long that it is used only when it is asked for by name or was tuned.
    """

    adapter: str
    format: str | None
    framework: str
    install: str
    system: str | None = None
    precisions: tuple[str, ...] | None = None
    light: bool = False
    slow_to_build: bool = False

    def missing(self) -> str | None:
        """Say why it cannot run here without importing its framework, or None if nothing is known against it."""
        if self.system not in (None, platform.system()):
            return f"Core ML runs on macOS only, and this is {platform.system()}"
        if find_spec(self.framework) is None:
            return f"it needs {self.framework}; install it with: {self.install}"
        return None

    def devices(self) -> list[str]:
        """Return the devices to try here, in the order of preference, without importing a heavy framework for it."""
        if self.framework == "onnxruntime":
            from lvm_runtime.backends.onnx import onnx_devices

            return onnx_devices()
        return ["auto"]


_TORCH = "pip install 'lvm_runtime[torch]'"
_ADAPTERS = "lvm_runtime.backends"

BACKENDS: dict[str, BackendInfo] = {
    "onnx": BackendInfo(f"{_ADAPTERS}.onnx:OnnxBackend", "onnx", "onnxruntime", "pip install onnxruntime", light=True),
    "native": BackendInfo(
        f"{_ADAPTERS}.native:NativeBackend",
        "native",
        "lvm_runtime.native._engine",
        "pip install --force-reinstall --no-binary lvm_runtime lvm_runtime, with a C++17 compiler",
        light=True,
    ),
    "coreml": BackendInfo(
        f"{_ADAPTERS}.coreml:CoreMLBackend",
        "coreml",
        "coremltools",
        "pip install 'lvm_runtime[coreml]'",
        system="Darwin",
    ),
    "openvino": BackendInfo(
        f"{_ADAPTERS}.openvino:OpenVinoBackend",
        "onnx",
        "openvino",
        "pip install 'lvm_runtime[openvino]'",
        precisions=("fp32", "bf16"),
    ),
    "torchscript": BackendInfo(f"{_ADAPTERS}.torchscript:TorchScriptBackend", "torchscript", "torch", _TORCH),
    "eager": BackendInfo(f"{_ADAPTERS}.eager:EagerBackend", None, "torch", _TORCH),
    "compiled": BackendInfo(f"{_ADAPTERS}.compiled:CompiledBackend", None, "torch", _TORCH, slow_to_build=True),
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
