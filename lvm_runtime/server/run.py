"""Run the server: both sides on one event loop, from the loading of the models to the last answer.

The ports open once every model is loaded: a server that anybody can connect to is one that answers.

A server that is told to stop says at once that it is not ready, and goes on answering for `drain` seconds, in which
whoever balances the load finds that out; HTTP answers then end their connections. After that nothing new is taken, and
what is under way is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import uvicorn

from lvm_runtime.server.connection import Connection
from lvm_runtime.server.models import Models
from lvm_runtime.server.ports import open_port, unusable
from lvm_runtime.server.rest import build_app
from lvm_runtime.server.rpc import build_server
from lvm_runtime.server.state import State

SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
"""Those that stop a server or make it load its models again."""

_log = logging.getLogger("lvm_runtime.server")
_KEEP_ALIVE = 75  # seconds; longer than the minute after which balancers drop idle connections themselves
_LOOK = 0.5  # seconds between two looks of a worker at its supervisor
_SWITCH = 0.0002
"""Seconds after which a thread that has Python's lock hands it on. With the usual 0.005 a batch waits several times for
the event loop: 32 clients got 230 answers a second on a busy machine, and 1,780 with this."""
_YOUNG = 20_000
"""New objects after which Python looks for cycles. In Python 3.11 these are 700, which a few calls make: 32 clients
over gRPC got 4,680 answers a second with it and 4,950 with this, the slowest hundredth after 21 and 13 ms."""


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: uvicorn raises them again once it has stopped, which would end the process too early."""
        yield


def run(
    state: State,
    web: socket.socket,
    rpc: socket.socket,
    supervisor: int | None = None,
    serves: Callable[[], None] = lambda: None,
) -> None:
    """Serve on the ports that `web` and `rpc` hold until SIGTERM or SIGINT; SIGHUP loads the models again.

    These signals may be blocked until then, and are let in once somebody listens. A worker also stops when its
    `supervisor`, the process that started it, was killed, and calls `serves` once its ports are open. Raises what a
    model that cannot be loaded raises.
    """
    sys.setswitchinterval(_SWITCH)
    gc.set_threshold(_YOUNG)
    start: Callable[..., None] = asyncio.run
    with contextlib.suppress(ImportError):
        from uvloop import run as start  # uvloop.install changes a policy, which Python 3.14 deprecates
    start(_serve(state, web, rpc, supervisor, serves))


async def _serve(
    state: State, web: socket.socket, rpc: socket.socket, supervisor: int | None, serves: Callable[[], None]
) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    watching = loop.create_task(_watch(supervisor, stop)) if supervisor else None
    first = loop.create_task(_load(state.models))
    loads = {first}
    loop.add_signal_handler(signal.SIGHUP, lambda: loads.add(loop.create_task(state.models.reload())))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    try:
        await asyncio.wait((first, loop.create_task(stop.wait())), return_when=asyncio.FIRST_COMPLETED)
        if first.done():
            first.result()
        if not stop.is_set():
            await _answer(state, web, rpc, stop, serves)
    finally:
        if watching is not None:
            watching.cancel()
        state.models.close()
    _log.info("stopped")
    if not all(load.done() for load in loads):
        os._exit(0)  # Python would wait for the thread that loads, which nobody needs now and nothing stops


async def _answer(
    state: State, web: socket.socket, rpc: socket.socket, stop: asyncio.Event, serves: Callable[[], None]
) -> None:
    """Open the ports and answer until `stop` is set and what was under way is done."""
    answering, server = _web(state), build_server(state)
    bound = _bind(server, state, rpc)
    open_port(web, state.options.host)
    serving = asyncio.get_running_loop().create_task(answering.serve(sockets=[web]))
    try:
        await server.start()
        serves()
        where = {"http": web.getsockname()[1], "grpc": bound, "host": state.options.host}
        _log.info("listening", extra=where | {"tls": state.options.tls_cert is not None})
        _log.info("ready")
        await stop.wait()
        await _drain(state)
    finally:
        answering.should_exit = True
        await asyncio.gather(serving, server.stop(state.options.grace))


async def _load(models: Models) -> None:
    if not models.ready:
        await models.load_first()
    elif models.outdated:
        await models.reload()


async def _watch(supervisor: int, stop: asyncio.Event) -> None:
    while os.getppid() == supervisor:
        await asyncio.sleep(_LOOK)
    _log.error("the supervisor is gone", extra={"supervisor": supervisor})
    stop.set()


async def _drain(state: State) -> None:
    state.stopping = True
    _log.info("stopping", extra={"drain": state.options.drain})
    await asyncio.sleep(state.options.drain)


def _web(state: State) -> _Uvicorn:
    options = state.options
    bounds = {"timeout": options.timeout, "log_requests": options.log_requests}
    connection = type("BoundConnection", (Connection,), bounds)
    return _Uvicorn(
        uvicorn.Config(
            build_app(state),
            http=connection,
            ws="none",
            lifespan="off",
            loop="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # nothing is told or refused by a client's address
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=int(options.grace) or 1,
            ssl_certfile=options.tls_cert,
            ssl_keyfile=options.tls_key,
        )
    )


def _bind(server: Any, state: State, holder: socket.socket) -> int:
    """Give the gRPC server the port that `holder` holds, or had: several workers share it, one has it alone."""
    options, port = state.options, holder.getsockname()[1]
    host = f"[{options.host}]" if ":" in options.host else options.host
    if options.workers == 1:
        holder.close()
    try:
        if options.tls_cert is None or options.tls_key is None:
            return server.add_insecure_port(f"{host}:{port}")
        pair = options.tls_key.read_bytes(), options.tls_cert.read_bytes()
        return server.add_secure_port(f"{host}:{port}", grpc.ssl_server_credentials([pair]))
    except RuntimeError as error:
        raise unusable(options.host, port, "gRPC", error) from error
