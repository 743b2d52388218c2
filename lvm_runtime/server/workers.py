"""Several server processes on the same ports.

The models are loaded before the processes fork, so that these share the memory of the weights until a reload. Where a
backend does not live through a fork, each process loads its own.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from typing import Any

from prometheus_client import multiprocess

from lvm_runtime.backends.registry import backend_class
from lvm_runtime.errors import LvmError
from lvm_runtime.request import Request
from lvm_runtime.server.metrics import Metrics
from lvm_runtime.server.models import Models
from lvm_runtime.server.options import ModelSpec, ServerOptions
from lvm_runtime.server.ports import hold
from lvm_runtime.server.run import run
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
        state.models.load()
        if any(not _survives_forks(model.predictor) for model in state.models):
            state.models.close()
            state.models = Models(specs, request, options, metrics)
        _Supervisor(state, web, rpc).run()


class _Supervisor:
    """Keeps the workers running, and passes signals on to them."""

    def __init__(self, state: State, web: socket.socket, rpc: socket.socket) -> None:
        self._state, self._web, self._rpc = state, web, rpc
        self._workers: dict[int, float] = {}  # process and when it began
        self._stopping = False

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._pass_on)
        for _ in range(self._state.options.workers):
            self._start()
        failed = False
        while self._workers:
            process, status = os.wait()
            began = self._workers.pop(process)
            multiprocess.mark_process_dead(process)
            if self._stopping:
                continue
            _log.error("a worker ended", extra={"worker": process, "status": os.waitstatus_to_exitcode(status)})
            if time.monotonic() - began < _SHORT_LIFE:
                failed = True
                self._pass_on(signal.SIGTERM)
            else:
                self._start()
        if failed:
            raise LvmError(f"a worker ended within {_SHORT_LIFE:g} s of its start; the log says why")

    def _start(self) -> None:
        supervisor, process = os.getpid(), os.fork()
        if process:
            self._workers[process] = time.monotonic()
            return
        status = 1
        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            run(self._state, self._web, self._rpc, supervisor)
            status = 0
        except BaseException:
            _log.exception("failed")
        finally:
            os._exit(status)

    def _pass_on(self, number: int, frame: Any = None) -> None:
        self._stopping = self._stopping or number != signal.SIGHUP
        for process in self._workers:
            os.kill(process, signal.SIGTERM if number == signal.SIGINT else number)


def _survives_forks(predictor: Any) -> bool:
    running = predictor.explain().running
    return running.device in backend_class(running.backend).several_runs
