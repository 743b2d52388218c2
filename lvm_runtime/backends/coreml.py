"""Core ML: the Neural Engine, the GPU and the CPU of a Mac.

Written against the documented API of coremltools (`CompiledMLModel`, `compile_model`); it runs on macOS only.

b batch, T context length, D vector.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lvm_runtime.backends.base import Array, Backend
from lvm_runtime.backends.batch_plan import plan_batches
from lvm_runtime.coreml.package import (
    MULTIFUNCTION_MACOS,
    SMALLEST_MACOS,
    UNITS,
    compile_package,
    import_coremltools,
    read_package,
    require_macos,
)
from lvm_runtime.errors import ArtifactError, BackendUnavailable


class CoreMLBackend(Backend):
    """Run a package made by `lvm-runtime export coreml` on device ane, gpu, cpu or all ("auto": as it was exported).

    A device means that Core ML may use it beside the CPU; `lvm-runtime placement PACKAGE` shows what it makes of that.
    One lock guards the predictions, as coremltools is not known to be safe without.
    """

    name: ClassVar[str] = "coreml"

    def __init__(self, source: Path, *, device: str = "auto", threads: int | None = None, **options: Any) -> None:
        require_macos("backend coreml")
        package = read_package(source)
        require_macos(str(source), least=MULTIFUNCTION_MACOS if package.multifunction else SMALLEST_MACOS)
        self.device = package.device if device == "auto" else device
        if self.device not in UNITS:
            raise BackendUnavailable(f"backend coreml has no device {device!r}; it has {', '.join(UNITS)}")
        self.batch_sizes = tuple(package.functions)
        self._functions = package.functions
        self._compiled = str(compile_package(source))
        self._multifunction = package.multifunction
        self._lock = threading.Lock()
        self._models: dict[str, Any] = {}
        # coremltools lets go of an input about a second after the call, on another thread; inputs that live as
        # long as the backend cannot be freed under it
        self._inputs: dict[int, Array] = {}

    def run(self, contexts: Array) -> Array:
        """Return predictions `[b, D]` for any b: the cheapest mix of the package's batch sizes, padded with zeros."""
        return self._run(contexts, ("prediction",))[0]

    def run_with_attention(self, contexts: Array) -> tuple[Array, Array]:
        """Return predictions `[b, D]` and attention `[b, T]`."""
        predictions, attention = self._run(contexts, ("prediction", "attention"))
        return predictions, attention

    def close(self) -> None:
        """Let the loaded models go; their inputs go with them."""
        with self._lock:
            self._models.clear()

    def _run(self, contexts: Array, names: tuple[str, ...]) -> list[Array]:
        parts: list[list[Array]] = []
        start = 0
        for size, used in plan_batches(len(contexts), self.batch_sizes):
            with self._lock:
                buffer = self._inputs.setdefault(size, np.zeros((size, *contexts.shape[1:]), np.float32))
                buffer[:used] = contexts[start : start + used]
                buffer[used:] = 0.0
                outputs = self._model(size).predict({"context": buffer})
            parts.append([np.array(outputs[name][:used], dtype=np.float32) for name in names])
            start += used
        return [np.concatenate(columns) for columns in zip(*parts, strict=True)]

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
                reason = " ".join(str(error).split())
                raise ArtifactError(f"{self._compiled}: Core ML cannot load function {name}: {reason}") from error
        return self._models[name]
