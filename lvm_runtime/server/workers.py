"""Several server processes on the same ports.

The models are loaded before the processes fork, so that these share the memory of the weights until a reload. Where a
backend does not live through a fork, or would lose threads in it, each process loads its own.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from prometheus_client import multiprocess

from lvm_runtime.backends.registry import backend_class
from lvm_runtime.errors import LvmError
from lvm_runtime.request import Request
from lvm_runtime.server.metrics import Metrics
from lvm_runtime.server.models import Models
from lvm_runtime.server.options import ModelSpec, ServerOptions
from lvm_runtime.server.ports import hold
from lvm_runtime.server.run import SIGNALS, run
from lvm_runtime.server.state import State

_log = logging.getLogger("lvm_runtime.server")
_SHORT_LIFE = 5.0  # seconds; a worker that served and ends sooner would end again
_LONGEST_PAUSE = 60.0  # seconds before another try to load


def serve(specs: list[ModelSpec], request: Request, options: ServerOptions) -> None:
    """Serve the models until SIGTERM or SIGINT, in `options.workers` processes."""
    if not options.loopback and options.token is None:
        _log.warning(
            "other machines can reach this server, and it asks nobody for a token", extra={"host": options.host}
        )
    metrics = Metrics()
    state = State(options, Models(specs, request, options, metrics), metrics)
    several = options.workers > 1
    with (
        hold(options.host, options.http_port, "HTTP") as web,
        hold(options.host, options.grpc_port, "gRPC", shared=several) as rpc,
    ):
        if not several:
            run(state, web, rpc)
            return
        with _signals() as signals:
            try:
                with _stoppable():
                    state.models.load()
            except _Stopped:
                _log.info("stopped")
                return
            if any(not _is_whole_after_fork(model.predictor) for model in state.models):
                state.models.close()
                state.models = Models(specs, request, options, metrics)
            _Supervisor(state, web, rpc).run(signals)


@contextlib.contextmanager
def _signals() -> Iterator[socket.socket]:
    """Yield where each signal arrives as a byte, its number: one that comes while a worker starts waits its turn."""
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    before = {number: signal.signal(number, lambda number, frame: None) for number in (*SIGNALS, signal.SIGCHLD)}
    signal.set_wakeup_fd(sender.fileno())
    try:
        yield receiver
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
        receiver.close()
        sender.close()


class _Stopped(BaseException):
    """A signal to stop came while no worker was there to take it."""


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Raise _Stopped where the first signal to stop finds the body: a load may take long."""

    def stop(number: int, frame: Any) -> None:
        for each, handler in before.items():
            signal.signal(each, handler)
        raise _Stopped

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True, slots=True)
class _Worker:
    """A process that serves or is about to."""

    began: float
    serving: mmap.mmap  # one byte that both processes see: 1 once it serves
    failures: int  # tries before it in which no model was served

    @property
    def serves(self) -> bool:
        """Whether it got so far."""
        return bool(self.serving[0])


class _Supervisor:
    """Keeps the workers running, and passes signals on to them."""

    def __init__(self, state: State, web: socket.socket, rpc: socket.socket) -> None:
        self._state, self._web, self._rpc = state, web, rpc
        self._workers: dict[int, _Worker] = {}
        self._due: list[tuple[float, int]] = []  # when to try again to start one, after how many failures
        self._stopping, self._failed = False, ""

    def run(self, signals: socket.socket) -> None:
        for _ in range(self._state.options.workers):
            self._start()
        while self._workers:
            signals.settimeout(max(0.01, min(self._due)[0] - time.monotonic()) if self._due else None)
            with contextlib.suppress(TimeoutError):
                for number in signals.recv(4096):
                    if number == signal.SIGCHLD:
                        self._replace()
                    else:
                        self._pass_on(number)
            self._try_again()
        if self._failed:
            raise LvmError(f"{self._failed}; the log says why")

    def _start(self, failures: int = 0) -> None:
        supervisor, serving = os.getpid(), mmap.mmap(-1, 1)
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # in the worker, until it listens to them
        process = os.fork()
        if process:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            self._workers[process] = _Worker(time.monotonic(), serving, failures)
            return
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            run(self._state, self._web, self._rpc, supervisor, partial(serving.__setitem__, 0, 1))
            status = 0
        except BaseException as error:
            model = self._state.models.opening
            usual = isinstance(error, LvmError | OSError)
            _log.error(
                "failed: %s", error, exc_info=not usual, extra={"model": model and f"{model.name}:{model.version}"}
            )
        finally:
            os._exit(status)

    def _replace(self) -> None:
        """Start a worker for each one that has ended; one that did not come to serve pauses before it tries again.

        Where one served for a short time only, or no worker serves or loads for the first time, stop the others.
        """
        found = [os.waitpid(process, os.WNOHANG) for process in self._workers]
        ended = [(process, status, self._workers.pop(process)) for process, status in found if process]
        for process, status, worker in ended:
            multiprocess.mark_process_dead(process)
            if self._stopping:
                continue
            told = {"worker": process, "status": os.waitstatus_to_exitcode(status)}
            if not worker.serves:
                pause = min(2.0**worker.failures, _LONGEST_PAUSE)
                self._due.append((time.monotonic() + pause, worker.failures + 1))
                _log.error("a worker ended before it served", extra=told | {"next_try_in": pause})
                if not any(other.serves or not other.failures for other in self._workers.values()):
                    self._fail("no worker could load its models and serve")
                continue
            _log.error("a worker ended", extra=told)
            if time.monotonic() - worker.began < _SHORT_LIFE:
                self._fail(f"a worker ended within {_SHORT_LIFE:g} s of its start")
            else:
                self._start()

    def _fail(self, why: str) -> None:
        self._failed = why
        self._pass_on(signal.SIGTERM)

    def _try_again(self) -> None:
        now = time.monotonic()
        due, self._due = self._due, [] if self._stopping else [later for later in self._due if later[0] > now]
        for when, failures in due:
            if when <= now and not self._stopping:
                self._start(failures)

    def _pass_on(self, number: int) -> None:
        self._stopping = self._stopping or number != signal.SIGHUP
        self._state.models.outdated = self._state.models.outdated or number == signal.SIGHUP
        for process in self._workers:
            os.kill(process, signal.SIGTERM if number == signal.SIGINT else number)


def _is_whole_after_fork(predictor: Any) -> bool:
    """Say whether a Predictor runs in a fork as it does here: its backend can, and it has one thread, which stays."""
    running = predictor.explain().running
    return running.threads == 1 and running.device in backend_class(running.backend).several_runs
