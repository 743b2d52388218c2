"""Run a backend while other threads may close it, or fork the process.

A child process has a copy of every lock, held or not, and only the thread that forked. So a fork waits until no other
thread runs, builds or closes a backend, and those that come meanwhile wait for the fork.

b batch, T context length, D vector.
"""

from __future__ import annotations

import atexit
import ctypes  # which numpy has loaded
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import get_ident
from typing import TypeVar

from lvm_runtime.backends.base import Array, Backend
from lvm_runtime.backends.batch_sizes import any_batch
from lvm_runtime.errors import ArtifactError, LvmError, one_line
from lvm_runtime.system.forks import ahead_of, handle_forks

_R = TypeVar("_R")
_LOOK_SECONDS = 0.0005  # how often a close looks whether the runs have ended

_OPEN: weakref.WeakValueDictionary[int, GuardedBackend] = weakref.WeakValueDictionary()
_BUILDING: dict[object, int] = {}  # a token for each backend that is built or closed now, and the thread that does it
_exiting = threading.Event()

_gate = threading.RLock()  # held by the thread that forks
_forking = 0  # that thread, while it does
_LONGEST_WAIT = 60.0
"""Seconds that a fork waits for other threads. A thread that itself waits for the forking one would never be done."""


class GuardedBackend:
    """Run any number of rows on `backend`, until it is closed; a close returns when the last run has ended.

    After a fork the backend is told before its first run, and says so if it cannot run there. What is still open is
    closed at the interpreter's exit, before the frameworks take themselves down. Guarding a run takes a
    quarter of a microsecond: dictionaries are safe to share between threads, so nothing is locked.
    """

    __slots__ = ("__weakref__", "_forked", "_inside", "backend", "closed", "runner")

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.runner = any_batch(backend)
        self._forked = False  # away from the process that built the backend, which has not run here yet
        self.closed = False
        self._inside: dict[object, int] = {}
        _OPEN[id(self)] = self

    def run(self, contexts: Array) -> Array:
        """Return predictions `[b, D]` for contiguous contexts `[b, T, D]`, b ≥ 1; LvmError once closed."""
        return self.guarded(self.runner.run, contexts)

    def run_usable(self, contexts: Array) -> Array | None:
        """Do what `run` does, or return None if a vector is not finite or longer than the backend takes."""
        return self.guarded(self.runner.run_usable, contexts)

    def run_with_attention(self, contexts: Array) -> tuple[Array, Array]:
        """Return predictions `[b, D]` and attention `[b, T]`."""
        return self.guarded(self.runner.run_with_attention, contexts)

    def close(self) -> None:
        """Let no run in any more, wait for those of other threads, and release the backend.

        A run of the closing thread itself, which a signal handler interrupted, cannot be waited for.
        """
        self.closed = True
        own = get_ident()
        while any(thread != own for thread in self._inside.copy().values()):
            time.sleep(_LOOK_SECONDS)
        with forks_wait():
            self.backend.close()

    def guarded(self, run: Callable[[Array], _R], contexts: Array) -> _R:
        """Return `run(contexts)`, where `run` is a method of `runner`; LvmError where the framework fails."""
        if self._forked:
            self._arrive_in_fork()
        token = object()
        try:
            self._inside[token] = get_ident()  # before the looks, so that a close sees the run or the run the close
            if _forking:
                _let_fork(self._inside, token)
            if self.closed:
                raise LvmError("this Predictor is closed; make a new one")
            return run(contexts)
        except (LvmError, MemoryError):
            raise
        except Exception as error:  # frameworks raise their own types
            raise LvmError(
                f"backend {self.backend.name} failed on {self.backend.device}: {one_line(error, 300)}"
            ) from error
        finally:
            self._inside.pop(token, None)

    def fork_away(self) -> None:
        """Take note in a child process that all threads but this are in the parent, and keep what the backend holds.

        onnxruntime and OpenVINO would wait for their threads when they let go of it.
        """
        self._forked = True
        self._inside.clear()
        for held in vars(self.backend).values():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(held))

    def _arrive_in_fork(self) -> None:
        self.backend.after_fork()
        self._forked = False


@contextmanager
def proving(source: Path, *, exported: bool = True) -> Iterator[None]:
    """Build a backend from `source` and try it in the body: whatever a framework raises there is an ArtifactError.

    What was not `exported`, as the weights that torch.compile takes, is not made whole by another export.
    """
    try:
        yield
    except (LvmError, MemoryError):
        raise
    except Exception as error:
        advice = "; export it again" if exported else ""
        raise ArtifactError(f"{source}: it cannot be run ({one_line(error, 300)}){advice}") from error


@contextmanager
def building() -> Iterator[None]:
    """Build a backend in the body; forks and the interpreter's exit wait for it, and the exit lets none begin."""
    with forks_wait():
        if _exiting.is_set():
            raise LvmError("the interpreter is about to exit; no backend can be built any more")
        if threading.active_count() > 1:
            for name in ("logging", "concurrent.futures.thread"):  # their locks are needed to import a framework
                with suppress(RuntimeError):  # the interpreter is about to exit
                    ahead_of(name)
        yield


@contextmanager
def forks_wait() -> Iterator[None]:
    """Do in the body what leaves locks or half-imported modules behind if another thread forks meanwhile."""
    token = object()
    try:
        _BUILDING[token] = get_ident()
        if _forking:
            _let_fork(_BUILDING, token)
        yield
    finally:
        _BUILDING.pop(token, None)


def _let_fork(tasks: dict[object, int], token: object) -> None:
    """Step aside with `token` while another thread forks, unless that waits for something else of this thread."""
    own = get_ident()
    del tasks[token]
    if _forking == own or any(own in others.copy().values() for others in _all_tasks()):
        tasks[token] = own
    else:
        with _gate:
            tasks[token] = own


def _all_tasks() -> Iterator[dict[object, int]]:
    yield _BUILDING
    for guard in _open_guards():  # of which none is added while nothing is built
        yield guard._inside


def _open_guards() -> list[GuardedBackend]:
    found = (reference() for reference in _OPEN.valuerefs())  # a list, which other threads do not change
    return [guard for guard in found if guard is not None]


def _before_fork() -> None:
    global _forking
    own = get_ident()
    if _forking == own:  # registered twice
        return
    _gate.acquire()
    _forking = own
    end = time.monotonic() + _LONGEST_WAIT
    for tasks in _all_tasks():
        while any(thread != own for thread in tasks.copy().values()) and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)


def _after_fork() -> None:
    global _forking
    if _forking == get_ident():
        _forking = 0
        _gate.release()


def _after_fork_in_child() -> None:
    _BUILDING.clear()  # those of threads that did not end in time
    for guard in _open_guards():
        guard.fork_away()
    _after_fork()


handle_forks(_before_fork, _after_fork, _after_fork_in_child)


@atexit.register
def _close_all() -> None:
    _exiting.set()
    while any(thread != get_ident() for thread in _BUILDING.copy().values()):
        time.sleep(_LOOK_SECONDS)
    for guard in _open_guards():
        guard.close()
