"""The REST side of the protocol, as a Starlette application."""

from __future__ import annotations

import hmac
import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import lvm_runtime
from lvm_runtime.server import codec
from lvm_runtime.server.failures import GONE, Failure, Refused, failure_of
from lvm_runtime.server.metrics import CONTENT_TYPE
from lvm_runtime.server.openapi import describe
from lvm_runtime.server.protocol import EXTENSIONS, PLATFORM, tensors_of
from lvm_runtime.server.state import State

_log = logging.getLogger("lvm_runtime.server")
_JSON = "application/json"
_MODEL = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
_INFER = re.compile(r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?/infer")

Handler = Callable[[State, Request], Awaitable[Response]]


def build_app(state: State) -> ASGIApp:
    """Return the application; `state` holds the models and says whether the server is about to stop.

    Requests for inference pass by Starlette's middleware and its search for a route, which take as long as decoding.
    """
    starlette, inference = _starlette(state), _Endpoint(state, infer)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if state.options.log_requests:
            send = _logging(scope, send)
        asked = _INFER.fullmatch(scope["path"]) if scope["method"] == "POST" else None
        if asked is None:
            await starlette(scope, receive, send)
        else:
            scope["path_params"] = asked.groupdict()
            await inference(scope, receive, send)

    return app


def _logging(scope: Scope, send: Send) -> Send:
    """Return a `send` that writes a line for the answer when this begins."""
    began, method, path = time.perf_counter(), scope["method"], scope["path"]

    async def logged(message: Message) -> None:
        if message["type"] == "http.response.start":
            extra = {"method": method, "path": path, "status": message["status"]}
            _log.info("request", extra=extra | {"seconds": round(time.perf_counter() - began, 6)})
        await send(message)

    return logged


def _starlette(state: State) -> Starlette:
    routes = [_route(state, f"{path}/infer", infer, "POST") for path in _MODEL]
    routes += [_route(state, f"{path}/{leaf}", handler) for path in _MODEL for leaf, handler in _LEAVES.items()]
    routes += [_route(state, path, handler) for path, handler in _PATHS.items()]
    routes += [_route(state, path, model_metadata) for path in _MODEL]  # last: /v2/models/stats looks like a model
    routes.append(_route(state, "/v2/repository/index", repository_index, "POST"))

    async def unknown(_: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        return _json(
            {"error": f"{getattr(error, 'detail', 'internal error')}; /openapi.json lists what there is"}, status
        )

    return Starlette(routes=routes, exception_handlers={HTTPException: unknown})


class _Endpoint:
    """A handler as an ASGI application, which Starlette calls without wrapping it."""

    def __init__(self, state: State, handler: Handler) -> None:
        self._state, self._handler = state, handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        state, request = self._state, Request(scope, receive)
        try:
            _require_token(state, request)
            response = await self._handler(state, request)
        except Exception as error:
            failure, message = failure_of(error)
            response = _json({"error": message}, failure.status)
            if failure is Failure.BUSY:
                response.headers["retry-after"] = "1"
            if failure is Failure.LARGE:
                response.headers["connection"] = "close"  # the rest of the body is not read
        if state.stopping:
            response.headers["connection"] = "close"  # so that nobody sends into a connection that is about to close
        await response(scope, receive, send)


def _route(state: State, path: str, handler: Handler, method: str = "GET") -> Route:
    return Route(path, _Endpoint(state, handler), methods=[method])


def _require_token(state: State, request: Request) -> None:
    token = state.options.token
    if token is None or request.scope["path"].startswith("/v2/health/"):
        return
    given = request.headers.get("authorization", "")
    if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        raise Refused(Failure.TOKEN, "expected the header Authorization: Bearer TOKEN with this server's token")


async def infer(state: State, request: Request) -> Response:
    """Answer an inference request."""
    model, status = _model(state, request), GONE
    given = dict(reversed(request.scope["headers"]))  # of several with one name the first counts
    try:
        body = await _body(state, request, given)
        call = codec.decode(body, _text(given, codec.HEADER_LENGTH))
        model = _model(state, request)  # a reload may have replaced it while the body came
        found = await model.infer(call.contexts, [wanted.name for wanted in call.outputs])
        body, headers = codec.encode(model.spec.name, model.spec.version, call, found)
        if encoding := codec.compression(_text(given, b"accept-encoding") or ""):
            body = codec.compress(body, encoding)
            headers.append((b"content-encoding", encoding.encode()))
        status = 200
        return _Tensors(body, headers)
    except Exception as error:
        failure, message = failure_of(error)
        status = failure.status
        raise Refused(failure, message) from error
    finally:
        model.count("http", status)


class _Tensors(Response):
    """An answer whose headers are bytes already."""

    def __init__(self, body: bytes, headers: codec.Headers) -> None:
        self.status_code, self.background, self.body = 200, None, body
        self.raw_headers = [*headers, (b"content-length", b"%d" % len(body))]


async def _body(state: State, request: Request, given: dict[bytes, bytes]) -> bytes:
    """Read the body, of `max_body` bytes at most also once it is unpacked."""
    most, size = state.options.max_body, 0
    chunks, more = [], int(given.get(b"content-length", 0)) <= most
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise Refused(Failure.LATE if request.scope.get("late") else Failure.BAD, "the body was cut off")
        chunks.append(message["body"])
        size += len(chunks[-1])
        more = message["more_body"] and size <= most
    if not chunks or size > most:
        raise Refused(Failure.LARGE, f"the body has more than {most} bytes; send fewer contexts")
    body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    encoding = given.get(b"content-encoding", b"identity").decode("latin-1").lower()
    return body if encoding == "identity" else codec.decompress(body, encoding, most)


def _text(given: dict[bytes, bytes], name: bytes) -> str | None:
    value = given.get(name)
    return None if value is None else value.decode("latin-1")


async def live(state: State, request: Request) -> Response:
    """Say that the server answers."""
    return _json({"live": True})


async def ready(state: State, request: Request) -> Response:
    """Say whether every model is loaded and the server is not about to stop."""
    return _json({"ready": state.ready}, 200 if state.ready else 503)


async def model_ready(state: State, request: Request) -> Response:
    """Say whether a model is loaded."""
    model = _model(state, request)
    return _json({"name": model.spec.name, "ready": state.ready}, 200 if state.ready else 503)


async def server_metadata(state: State, request: Request) -> Response:
    """Say what server this is."""
    return _json({"name": PLATFORM, "version": lvm_runtime.__version__, "extensions": EXTENSIONS})


async def model_metadata(state: State, request: Request) -> Response:
    """Say what a model takes and gives."""
    model = _model(state, request)
    inputs, outputs = tensors_of(model.config)
    name = model.spec.name
    versions = state.models.versions(name)
    return _json({"name": name, "versions": versions, "platform": PLATFORM, "inputs": inputs, "outputs": outputs})


async def model_statistics(state: State, request: Request) -> Response:
    """Say what a model, or each, has done in this worker process since it was loaded."""
    models = [_model(state, request)] if "model" in request.path_params else list(state.models)
    found = [model.statistics.to_dict(model.spec.name, model.spec.version) for model in models]
    return _json({"model_stats": found})


async def repository_index(state: State, request: Request) -> Response:
    """List the models."""
    served = {(model.spec.name, model.spec.version) for model in state.models}
    states = {True: "READY", False: "LOADING"}
    return _json(
        [
            {"name": spec.name, "version": spec.version, "state": states[(spec.name, spec.version) in served]}
            for spec in state.models.specs
        ]
    )


async def metrics(state: State, request: Request) -> Response:
    """Return the metrics for Prometheus."""
    return Response(state.metrics.text(), media_type=CONTENT_TYPE)


async def openapi(state: State, request: Request) -> Response:
    """Return the description of this interface."""
    return _json(describe(state.models))


_LEAVES: dict[str, Handler] = {"ready": model_ready, "stats": model_statistics}
_PATHS: dict[str, Handler] = {
    "/v2/health/live": live,
    "/v2/health/ready": ready,
    "/v2": server_metadata,
    "/v2/models/stats": model_statistics,
    "/metrics": metrics,
    "/openapi.json": openapi,
}


def _model(state: State, request: Request) -> Any:
    return state.models.get(request.path_params["model"], request.path_params.get("version"))


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type=_JSON)
