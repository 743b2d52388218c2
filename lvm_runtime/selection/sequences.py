"""Every window of a document at once, through the form that shares the windows' common work where there is one.

N vectors of a document, T context length, D vector; N − T + 1 windows.
"""

from __future__ import annotations

import threading

import numpy as np

from lvm_runtime.artifact.drift import BATCH_INVARIANCE_LIMIT
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.artifact.manifest import CompiledFile
from lvm_runtime.backends.base import Array, Backend
from lvm_runtime.backends.onnx import OnnxBackend
from lvm_runtime.errors import LvmError, VerificationFailed
from lvm_runtime.selection.candidates import Refusal
from lvm_runtime.selection.session import Session, largest_difference


class SequenceRunner:
    """Run the windows of a document `[N, D]` as the session `windows` would one by one.

    The artifact's sequence form is opened at the first document, and used if it gives the session's answers to the
    probes; `refusal` says why one that is there is not used. Safe to share between threads.
    """

    def __init__(self, artifact: Artifact, windows: Session) -> None:
        self._artifact = artifact
        self._windows = windows
        self._lock = threading.Lock()
        self._opened = False
        self.backend: Backend | None = None
        self.refusal: Refusal | None = None

    def run(self, vectors: Array) -> Array:
        """Return predictions `[N − T + 1, D]` for contiguous vectors `[N, D]`, N ≥ T."""
        if not self._opened:
            self._open()
        if self.backend is not None:
            return self.backend.run(vectors)
        return self._windows.run(window(vectors, self._artifact.config.context_length))

    def close(self) -> None:
        """Release the sequence form's backend."""
        if self.backend is not None:
            self.backend.close()

    def _open(self) -> None:
        with self._lock:
            if self._opened:
                return
            candidate = self._windows.candidate
            if candidate.backend == "onnx":
                for form in self._artifact.find("onnx", precision=candidate.precision, form="sequence"):
                    try:
                        self.backend = self._verified(form)
                        break
                    except LvmError as error:
                        self.refusal = Refusal(f"onnx {form.precision} sequence ({form.file.path})", str(error))
            self._opened = True

    def _verified(self, form: CompiledFile) -> Backend:
        session = self._windows
        probes = self._artifact.read_fingerprint().contexts
        n, length, dim = probes.shape
        backend = OnnxBackend(
            self._artifact.file(form),
            device=session.backend.device,
            threads=session.requested_threads,
            precision=form.precision,
        )
        answers = backend.run(probes.reshape(n * length, dim))[::length]  # windows that start where a probe does
        difference = largest_difference(answers, session.answers)
        if not difference <= BATCH_INVARIANCE_LIMIT:
            raise VerificationFailed(
                f"its answers differ by {difference:.1e} from those to single windows, "
                f"expected ≤ {BATCH_INVARIANCE_LIMIT:.0e}"
            )
        return backend


def window(vectors: Array, length: int) -> Array:
    """Return all windows `[N − length + 1, length, D]` of `vectors` `[N, D]`, contiguous."""
    view = np.lib.stride_tricks.sliding_window_view(vectors, length, axis=0)  # [n, D, T], no copy
    return np.ascontiguousarray(view.transpose(0, 2, 1))
