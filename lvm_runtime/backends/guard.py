"""A backend in a process where threads come and go: closed while another one predicts, or forked away from.

b batch, T context length, D vector.
"""

from __future__ import annotations

import atexit
import os
import time
import weakref
from collections.abc import Callable
from threading import get_ident
from typing import TypeVar

from lvm_runtime.backends.base import Array, Backend
from lvm_runtime.backends.batch_sizes import any_batch
from lvm_runtime.errors import LvmError

_R = TypeVar("_R")
_LOOK_SECONDS = 0.0005  # how often a close looks whether the runs have ended

_OPEN: weakref.WeakSet[Guard] = weakref.WeakSet()


class Guard:
    """Run any number of rows on `backend`, until it is closed; a close returns when the last run has ended.

    After a fork the backend is told before its first run, and says so if it cannot run there. What is still open is
    closed at the interpreter's exit, before the frameworks take themselves down. Guarding a run takes half a
    microsecond: dictionaries are safe to share between threads, so nothing is locked.
    """

    __slots__ = ("__weakref__", "_closed", "_inside", "_process", "_runner", "backend")

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._runner = any_batch(backend)
        self._process = os.getpid()
        self._closed = False
        self._inside: dict[object, int] = {}
        _OPEN.add(self)

    def run(self, contexts: Array) -> Array:
        """Return predictions `[b, D]` for contiguous contexts `[b, T, D]`, b ≥ 1; LvmError once closed."""
        return self._guarded(self._runner.run, contexts)

    def run_with_attention(self, contexts: Array) -> tuple[Array, Array]:
        """Return predictions `[b, D]` and attention `[b, T]`."""
        return self._guarded(self._runner.run_with_attention, contexts)

    def close(self) -> None:
        """Let no run in any more, wait for those of other threads, and release the backend.

        A run of the closing thread itself, which a signal handler interrupted, cannot be waited for; nor can those that
        were under way in another thread when the process forked.
        """
        self._closed = True
        own, parent = get_ident(), os.getpid() != self._process
        while not parent and any(thread != own for thread in self._inside.copy().values()):
            time.sleep(_LOOK_SECONDS)
        self.backend.close()

    def _guarded(self, run: Callable[[Array], _R], contexts: Array) -> _R:
        if os.getpid() != self._process:
            self._arrive_in_fork()
        token = object()
        try:
            self._inside[token] = get_ident()  # before the look, so that a close sees the run or the run the close
            if self._closed:
                raise LvmError("this Predictor is closed; make a new one")
            return run(contexts)
        finally:
            self._inside.pop(token, None)

    def _arrive_in_fork(self) -> None:
        self.backend.after_fork()
        self._inside.clear()
        self._process = os.getpid()


@atexit.register
def _close_all() -> None:
    for guard in list(_OPEN):
        guard.close()
