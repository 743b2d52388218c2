"""onnxruntime: the portable backend; needs numpy and onnxruntime, and never torch.

Each session has a pool of threads of its own, sized to the CPUs that the process may use. A pool shared by all
sessions (`set_global_thread_pool_sizes`) would make every session fail that anybody else in the process creates.
A thread that waits for work spins for a while before it sleeps, because waking it takes longer than a small operation.
By default it spins for a millisecond or more, and keeps a CPU from the session that runs next or at the same moment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lvm_runtime.backends.base import Array, Backend
from lvm_runtime.errors import ArtifactError, BackendUnavailable
from lvm_runtime.hardware import usable_cpus

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "coreml": "CoreMLExecutionProvider"}
_SPIN_MICROSECONDS = "50"
"""On two cores two Transformers then take turns 2.5 times as fast as with the default, and a query alone takes as long;
stopping at the end of a run (`force_spinning_stop`) costs a lone AMN query a tenth."""
_OPTIONS = {"cuda": {"use_tf32": "0"}, "coreml": {"ModelFormat": "MLProgram", "MLComputeUnits": "ALL"}}


class OnnxBackend(Backend):
    """Run an ONNX file on the CPU, CUDA or CoreML provider of onnxruntime.

    A provider that the session does not really use is an error, for a part of the graph too: onnxruntime itself
    would go on on the CPU. `graph_input` names the input: "context", or "vectors" for a sequence form.
    """

    name: ClassVar[str] = "onnx"

    def __init__(
        self,
        source: Path,
        *,
        device: str = "auto",
        threads: int | None = None,
        graph_input: str = "context",
        **options: Any,
    ) -> None:
        ort = _import_onnxruntime()
        self.device = "cpu" if device == "auto" else device
        provider = PROVIDERS.get(self.device)
        if provider is None or provider not in ort.get_available_providers():
            raise BackendUnavailable(
                f"backend onnx cannot run on device {device!r}: this onnxruntime has the devices "
                f"{', '.join(onnx_devices())}; for cuda: pip install onnxruntime-gpu"
            )
        settings = ort.SessionOptions()
        settings.log_severity_level = 4  # its errors come as exceptions too
        settings.intra_op_num_threads = self.threads = threads or usable_cpus()
        settings.add_session_config_entry("session.intra_op.spin_duration_us", _SPIN_MICROSECONDS)
        if self.device != "cpu":
            settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        providers = [(provider, _OPTIONS.get(self.device, {}))]
        try:
            self._session = ort.InferenceSession(str(source), settings, providers=providers, enable_fallback=0)
        except Exception as error:  # onnxruntime raises its own types, which share no base
            problem = " ".join(str(error).split())
            if self.device != "cpu":
                raise BackendUnavailable(f"{source} does not run whole on {self.device}: {problem}") from error
            raise ArtifactError(f"{source}: onnxruntime cannot load it: {problem}") from error
        if self._session.get_providers()[0] != provider:
            raise BackendUnavailable(
                f"backend onnx was asked for {self.device} and the session uses {self._session.get_providers()[0]}"
            )
        self._input = graph_input
        self._prediction = ["prediction"]
        self._slots: list[_Slot] = []

    def run(self, contexts: Array) -> Array:
        """Return predictions `[b, D]`."""
        if len(contexts) == 1 and self.device == "cpu" and self._input == "context":
            return self._run_one(contexts)
        return self._session.run(self._prediction, {self._input: contexts})[0]

    def run_with_attention(self, contexts: Array) -> tuple[Array, Array]:
        """Return predictions `[b, D]` and attention `[b, T]`."""
        prediction, attention = self._session.run(["prediction", "attention"], {self._input: contexts})
        return prediction, attention

    def _run_one(self, contexts: Array) -> Array:
        """Return the prediction `[1, D]` for `[1, T, D]`; each call at the same moment has a slot of its own."""
        try:
            slot = self._slots.pop()
        except IndexError:
            slot = _Slot(self._session)
        slot.context[...] = contexts
        self._session.run_with_iobinding(slot.binding)
        prediction = slot.prediction.copy()
        self._slots.append(slot)
        return prediction


class _Slot:
    """Memory for one context and one prediction, bound to a session once.

    Copying 18 KB takes 1 µs; checking names and types, wrapping arrays and allocating the output in each call takes 6.
    """

    __slots__ = ("binding", "context", "prediction")

    def __init__(self, session: Any) -> None:
        self.binding = session.io_binding()
        self.context = np.empty((1, *session.get_inputs()[0].shape[1:]), np.float32)
        self.prediction = np.empty((1, *session.get_outputs()[0].shape[1:]), np.float32)
        for bind, name, array in (
            (self.binding.bind_input, "context", self.context),
            (self.binding.bind_output, "prediction", self.prediction),
        ):
            bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)


def onnx_devices() -> list[str]:
    """Return the devices that the installed onnxruntime was built for, the CPU first."""
    present = _import_onnxruntime().get_available_providers()
    return [device for device, provider in PROVIDERS.items() if provider in present]


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendUnavailable("backend onnx needs onnxruntime; install it with: pip install onnxruntime") from error
    return onnxruntime
