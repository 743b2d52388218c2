"""OpenVINO on Intel and AMD CPUs: reads the artifact's ONNX file, in fp32 or with bfloat16 arithmetic."""

from __future__ import annotations

import mmap
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from lvm_runtime.artifact.files import open_plain
from lvm_runtime.backends.base import REDUCED_LARGEST_NORM, Array, Backend, file_precision
from lvm_runtime.backends.onnx_file import refuse_external_data
from lvm_runtime.errors import ArtifactError, BackendUnavailable, one_line
from lvm_runtime.system import extras
from lvm_runtime.system.cpus import usable_cpus

_HINTS = {"fp32": "f32", "bf16": "bf16"}
_TELEMETRY = "openvino_telemetry"
_PRECISION = ["framework", "precision"]  # where OpenVINO keeps an ONNX file's metadata


def has_bf16() -> bool:
    """Say whether OpenVINO has bfloat16 arithmetic for this CPU; asked for it all the same, it computes in fp32."""
    return "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def openvino_core() -> Any:
    """Return the Core of this process. OpenVINO crashes once in a while where there was another one before."""
    return _core_of(os.getpid())


@cache
def _core_of(process: int) -> Any:
    return OpenVinoBackend.load_framework().Core()


def _refuse_weak_mask(source: Path) -> None:
    """Raise ArtifactError for a causal attention that does not say what to add to the score of a barred position.

    OpenVINO then adds -10,000, and from a norm of some hundred on a vector sees those after it. Older exports said
    nothing: onnxruntime, for which they were made, leaves barred positions out.
    """
    with open_plain(source) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data.find(b"unidirectional") >= 0 and data.find(b"mask_filter_value") < 0:
            raise ArtifactError(
                f"{source}: its causal attention does not bar long vectors in OpenVINO; export it again"
            )


class OpenVinoBackend(Backend):
    """Run a full-precision ONNX file through OpenVINO's CPU plugin; `precision` is "fp32" or "bf16".

    Each calling thread gets an inference request of its own; requests are not safe to share.
    """

    name: ClassVar[str] = "openvino"
    format: ClassVar[str | None] = "onnx"
    framework: ClassVar[str] = "openvino"
    install: ClassVar[str] = extras.pip_command("openvino")
    precisions: ClassVar[tuple[str, ...] | None] = tuple(_HINTS)

    def __init__(
        self, source: Path, *, device: str = "auto", threads: int | None = None, precision: str | None = None
    ) -> None:
        self.load_framework()
        if device not in ("auto", "cpu"):
            raise BackendUnavailable(f"backend openvino runs on the cpu here, and device {device!r} was asked for")
        refuse_external_data(source)
        _refuse_weak_mask(source)
        core = openvino_core()
        self.precision = self.arithmetic(precision)
        if self.precision == "bf16" and not has_bf16():
            raise BackendUnavailable("OpenVINO finds no bfloat16 arithmetic in this CPU")
        if self.precision == "bf16":
            self.largest_norm = REDUCED_LARGEST_NORM
        self.device = "cpu"
        self.threads = threads or usable_cpus()
        hint = _HINTS[self.precision]
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": self.threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            model = core.read_model(str(source))
            self._model: Any = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise ArtifactError(f"{source}: OpenVINO cannot load it: {one_line(error)}") from error
        said = model.get_rt_info(_PRECISION).value if model.has_rt_info(_PRECISION) else None
        file_precision(source, said, "fp32")  # bf16 too is arithmetic on full-precision weights
        computed = self._model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if computed != hint:
            raise BackendUnavailable(f"OpenVINO was asked for {self.precision} and computes in {computed} on this CPU")
        self._requests: list[Any] = []

    @classmethod
    def load_framework(cls) -> Any:
        """Import OpenVINO, and let it send nothing: on import it reports the program's use of it to its maker.

        It does so from a child that another thread forks. Whoever wants that imports openvino first.
        """
        if cls.framework in sys.modules or _TELEMETRY in sys.modules:
            return super().load_framework()
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # as if it were not installed
        try:
            return super().load_framework()
        finally:
            sys.modules.pop(_TELEMETRY, None)

    def run(self, contexts: Array) -> Array:
        """Return predictions `[b, D]`."""
        return self._infer(contexts, "prediction")[0]

    def run_with_attention(self, contexts: Array) -> tuple[Array, Array]:
        """Return predictions `[b, D]` and attention `[b, T]`."""
        prediction, attention = self._infer(contexts, "prediction", "attention")
        return prediction, attention

    def close(self) -> None:
        """Let go of the model and its requests."""
        self._requests.clear()
        self._model = None

    def _infer(self, contexts: Array, *names: str) -> list[Array]:
        """Return outputs. Calls at the same moment have a request each, which is kept for those that follow.

        A request of each thread's own would end with the thread, perhaps while the interpreter exits, and OpenVINO lets
        go of the interpreter lock to free one. A thread that asks for it back then ends the process.
        """
        try:
            request = self._requests.pop()
        except IndexError:
            request = self._model.create_infer_request()
        try:
            request.infer({"context": contexts})
            found = [request.get_tensor(name).data.copy() for name in names]
        finally:
            self._requests.append(request)
        if len(found[0]) != len(contexts):  # with one CPU it loses an error that it raises with more
            raise RuntimeError(f"OpenVINO gave {len(found[0])} predictions for {len(contexts)} contexts")
        return found
