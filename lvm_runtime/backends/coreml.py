"""Core ML: the Neural Engine, the GPU and the CPU of a Mac.

Written against the documented API of coremltools (`CompiledMLModel`, `compile_model`); it runs on macOS only.

b batch, T context length, D vector.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lvm_runtime.backends.base import REDUCED_LARGEST_NORM, Array, Backend, file_precision
from lvm_runtime.coreml.package import (
    MULTIFUNCTION_MACOS,
    SMALLEST_MACOS,
    UNITS,
    compile_package,
    import_coremltools,
    read_package,
    require_macos,
)
from lvm_runtime.errors import ArtifactError, BackendUnavailable, one_line
from lvm_runtime.system import extras


class CoreMLBackend(Backend):
    """Run a package made by `lvm-runtime export coreml` on device ane, gpu, cpu or all ("auto": as it was exported).

    A device means that Core ML may use it beside the CPU; `lvm-runtime placement PACKAGE` shows what it makes of that.
    One lock guards the predictions, as coremltools is not known to be safe without.
    """

    name: ClassVar[str] = "coreml"
    format: ClassVar[str | None] = "coreml"
    exports: ClassVar[Mapping[str, str]] = {"fp16": "", "fp32": " --precision fp32", "int8": " --compress int8"}
    framework: ClassVar[str] = "coremltools"
    install: ClassVar[str] = extras.pip_command("coreml")
    system: ClassVar[str | None] = "Darwin"
    largest_norm = REDUCED_LARGEST_NORM

    def __init__(
        self, source: Path, *, device: str = "auto", threads: int | None = None, precision: str | None = None
    ) -> None:
        require_macos("backend coreml")
        self.refuse_threads(threads)
        package = read_package(source)
        require_macos(str(source), least=MULTIFUNCTION_MACOS if package.multifunction else SMALLEST_MACOS)
        self.device = package.device if device == "auto" else device
        if self.device not in UNITS:
            raise BackendUnavailable(f"backend coreml has no device {device!r}; it has {', '.join(UNITS)}")
        self.precision = file_precision(source, package.precision, precision)
        self.batch_sizes = tuple(package.functions)
        self._functions = package.functions
        self._compiled = str(compile_package(source))
        self._multifunction = package.multifunction
        self._lock = threading.RLock()  # a signal handler may close what it has interrupted
        self._models: dict[str, Any] = {}
        # coremltools lets go of an input about a second after the call, on another thread; inputs that live as
        # long as the backend cannot be freed under it
        self._inputs: dict[int, Array] = {}

    @classmethod
    def devices(cls) -> list[str]:
        """Return the devices that Core ML may be asked for."""
        cls.require()
        return list(UNITS)

    def run(self, contexts: Array) -> Array:
        """Return predictions `[b, D]`; b is one of `batch_sizes`."""
        return self._run(contexts, "prediction")[0]

    def run_with_attention(self, contexts: Array) -> tuple[Array, Array]:
        """Return predictions `[b, D]` and attention `[b, T]`."""
        predictions, attention = self._run(contexts, "prediction", "attention")
        return predictions, attention

    def close(self) -> None:
        """Let the loaded models go; their inputs go with them."""
        with self._lock:
            self._models.clear()

    def _run(self, contexts: Array, *names: str) -> list[Array]:
        size = len(contexts)
        with self._lock:
            buffer = self._inputs.setdefault(size, np.empty(contexts.shape, np.float32))
            buffer[...] = contexts
            outputs = self._model(size).predict({"context": buffer})
            return [np.array(outputs[name], dtype=np.float32) for name in names]

    def _model(self, size: int) -> Any:
        """Return the loaded function for a batch size; loading takes its time once per function."""
        name = self._functions[size]
        if name not in self._models:
            coremltools = import_coremltools()
            try:
                self._models[name] = coremltools.models.CompiledMLModel(
                    self._compiled,
                    compute_units=coremltools.ComputeUnit[UNITS[self.device]],
                    function_name=name if self._multifunction else None,
                )
            except RuntimeError as error:  # what the native layer raises
                raise ArtifactError(
                    f"{self._compiled}: Core ML cannot load function {name}: {one_line(error)}"
                ) from error
        return self._models[name]
