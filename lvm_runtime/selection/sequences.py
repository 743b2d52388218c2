"""Every window of a document at once, through the form that shares the windows' common work where there is one.

N vectors of a document, T context length, D vector; N − T + 1 windows.
"""

from __future__ import annotations

import threading
import warnings

import numpy as np

from lvm_runtime.artifact.drift import BATCH_INVARIANCE_LIMIT, largest_difference, require
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.artifact.manifest import CompiledFile
from lvm_runtime.backends.base import Array, Backend
from lvm_runtime.backends.lifecycle import GuardedBackend, building, forks_wait, proving
from lvm_runtime.contexts import is_usable
from lvm_runtime.errors import LvmError
from lvm_runtime.selection.candidates import Refusal
from lvm_runtime.selection.session import Session


class SequenceRunner:
    """Run the windows of a document `[N, D]` as the session `windows` would one by one.

    The artifact's sequence form is opened at the first document, and used if it gives the session's answers to the
    probes; `refusal` says why one that is there is not used, and so does a warning. Safe to share between threads.
    """

    def __init__(self, artifact: Artifact, windows: Session) -> None:
        self._artifact = artifact
        self._windows = windows
        self._lock = threading.RLock()  # a signal handler may close what it has interrupted
        self._opened = False
        self._guard: GuardedBackend | None = None
        self.refusal: Refusal | None = None

    def run(self, vectors: Array) -> Array:
        """Return predictions `[N − T + 1, D]` for contiguous vectors `[N, D]`, N ≥ T."""
        if not self._opened:
            self._open()
        if self._guard is not None:
            return self._guard.run(vectors)
        return self._windows.run(window(vectors, self._artifact.config.context_length))

    def run_usable(self, vectors: Array) -> Array | None:
        """Do what `run` does, or return None if a vector is not finite or longer than the session's backend takes."""
        if not self._opened:
            self._open()
        if self._guard is not None:
            return self._guard.run_usable(vectors)
        return self.run(vectors) if is_usable(vectors, self._windows.backend.largest_norm) else None

    def close(self) -> None:
        """Wait for the runs that are under way and release the sequence form's backend; none is opened any more."""
        with self._lock:
            self._opened = True
        if self._guard is not None:
            self._guard.close()

    def _open(self) -> None:
        with forks_wait(), self._lock:  # which a child process would wait for
            if self._opened:
                return
            served = self._windows.backend
            if served.runs_sequences and served.format is not None:
                for form in self._artifact.find(served.format, precision=served.precision, form="sequence"):
                    try:
                        self._artifact.check_file(form.file.path)
                        with building(), proving(self._artifact.file(form)):
                            self._guard = GuardedBackend(self._verified(form))
                        break
                    except LvmError as error:
                        if self._windows.closed:  # meanwhile, of which the form knows nothing
                            raise
                        what = f"{served.name} {form.precision} sequence ({form.file.path})"
                        self.refusal = Refusal(what, str(error))
            self._opened = True
        if self._guard is None and self.refusal is not None:
            warnings.warn(f"documents run window by window, which is slower: {self.refusal}", stacklevel=4)

    def _verified(self, form: CompiledFile) -> Backend:
        session = self._windows
        probes = self._artifact.read_fingerprint().contexts
        n, length, dim = probes.shape
        document = probes.reshape(n * length, dim)
        between = window(document[: 2 * length], length)  # windows that begin within a probe, at each place of it
        backend = type(session.backend)(
            self._artifact.file(form),
            device=session.backend.device,
            threads=session.backend.threads,
            precision=form.precision,
        )
        backend.largest_norm = session.backend.largest_norm
        try:
            answers = backend.run(document)
            change = max(
                largest_difference(answers[::length], session.answers),
                largest_difference(answers[: len(between)], session.run(between)),
                largest_difference(backend.run(document[:length]), answers[:1]),  # the shortest document
            )
            require(change, BATCH_INVARIANCE_LIMIT, "its largest difference to single windows", "export it again")
        except BaseException:
            backend.close()
            raise
        return backend


def window(vectors: Array, length: int) -> Array:
    """Return all windows `[N − length + 1, length, D]` of `vectors` `[N, D]`, contiguous."""
    view = np.lib.stride_tricks.sliding_window_view(vectors, length, axis=0)  # [n, D, T], no copy
    return np.ascontiguousarray(view.transpose(0, 2, 1))
