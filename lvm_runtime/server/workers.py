"""Several server processes on the same ports.

The models are loaded before the processes fork, so that these share the memory of the weights until a reload. Where a
backend does not live through a fork, or would lose threads in it, each process loads its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
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
_SHORT_LIFE = 5.0  # seconds; a worker that ends sooner would end again


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
            state.models.load()
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


class _Supervisor:
    """Keeps the workers running, and passes signals on to them."""

    def __init__(self, state: State, web: socket.socket, rpc: socket.socket) -> None:
        self._state, self._web, self._rpc = state, web, rpc
        self._workers: dict[int, float] = {}  # process and when it began
        self._stopping = self._failed = False

    def run(self, signals: socket.socket) -> None:
        for _ in range(self._state.options.workers):
            self._start()
        while self._workers:
            for number in signals.recv(4096):
                if number == signal.SIGCHLD:
                    self._replace()
                else:
                    self._pass_on(number)
        if self._failed:
            raise LvmError(f"a worker ended within {_SHORT_LIFE:g} s of its start; the log says why")

    def _start(self) -> None:
        supervisor = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # in the worker, until it listens to them
        process = os.fork()
        if process:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            self._workers[process] = time.monotonic()
            return
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            run(self._state, self._web, self._rpc, supervisor)
            status = 0
        except BaseException:
            _log.exception("failed")
        finally:
            os._exit(status)

    def _replace(self) -> None:
        """Start a worker for each one that has ended; where one did not live for long, stop the others."""
        found = [os.waitpid(process, os.WNOHANG) for process in self._workers]
        ended = [(process, status, self._workers.pop(process)) for process, status in found if process]
        for process, status, began in ended:
            multiprocess.mark_process_dead(process)
            if self._stopping:
                continue
            _log.error("a worker ended", extra={"worker": process, "status": os.waitstatus_to_exitcode(status)})
            if time.monotonic() - began < _SHORT_LIFE:
                self._failed = True
                self._pass_on(signal.SIGTERM)
            else:
                self._start()

    def _pass_on(self, number: int) -> None:
        self._stopping = self._stopping or number != signal.SIGHUP
        self._state.models.outdated = self._state.models.outdated or number == signal.SIGHUP
        for process in self._workers:
            os.kill(process, signal.SIGTERM if number == signal.SIGINT else number)


def _is_whole_after_fork(predictor: Any) -> bool:
    """Say whether a Predictor runs in a fork as it does here: its backend can, and it has one thread, which stays."""
    running = predictor.explain().running
    return running.threads == 1 and running.device in backend_class(running.backend).several_runs
