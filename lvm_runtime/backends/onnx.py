"""onnxruntime: the portable backend; needs numpy and onnxruntime, and never torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from lvm_runtime.backends.base import Array, Backend
from lvm_runtime.errors import ArtifactError, BackendUnavailable

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxBackend(Backend):
    """Run an ONNX file on the CPU or CUDA provider of onnxruntime.

    A provider that the session does not really use is an error: onnxruntime itself would go on on the CPU.
    """

    name: ClassVar[str] = "onnx"

    def __init__(self, source: Path, *, device: str = "auto", threads: int | None = None, **options: Any) -> None:
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise BackendUnavailable(
                "backend onnx needs onnxruntime; install it with: pip install onnxruntime"
            ) from error
        self.device = "cpu" if device == "auto" else device
        provider = _PROVIDERS.get(self.device)
        if provider is None or provider not in ort.get_available_providers():
            raise BackendUnavailable(
                f"backend onnx cannot run on device {device!r}: this onnxruntime has "
                f"{', '.join(ort.get_available_providers())}; for cuda: pip install onnxruntime-gpu"
            )
        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        if threads is not None:
            settings.intra_op_num_threads = threads
        self.threads = threads
        provider_options = {"use_tf32": "0"} if self.device == "cuda" else {}
        try:
            self._session = ort.InferenceSession(str(source), settings, providers=[(provider, provider_options)])
        except Exception as error:  # onnxruntime raises its own types, which share no base
            raise ArtifactError(f"{source}: onnxruntime cannot load it: {' '.join(str(error).split())}") from error
        if self._session.get_providers()[0] != provider:
            raise BackendUnavailable(
                f"backend onnx was asked for {self.device} and the session uses {self._session.get_providers()[0]}"
            )
        self._prediction = ["prediction"]

    def run(self, contexts: Array) -> Array:
        """Return predictions `[b, D]`."""
        return self._session.run(self._prediction, {"context": contexts})[0]

    def run_with_attention(self, contexts: Array) -> tuple[Array, Array]:
        """Return predictions `[b, D]` and attention `[b, T]`."""
        prediction, attention = self._session.run(["prediction", "attention"], {"context": contexts})
        return prediction, attention
