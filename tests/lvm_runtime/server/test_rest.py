"""The REST side as an application, without a server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.datastructures import URL
from starlette.requests import Request as WebRequest

from lvm_runtime import Request
from lvm_runtime.server.metrics import Metrics
from lvm_runtime.server.models import Models
from lvm_runtime.server.options import ServerOptions
from lvm_runtime.server.rest import build_app
from lvm_runtime.server.state import State


@pytest.mark.parametrize(("path", "status"), [("/v2/health/live", 200), ("/v2", 401), ("/v2/models/amn/infer", 401)])
def test_a_host_opens_no_path_without_the_token(path: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starlette 0.46 joins the header `host` as it is to the path, to make an address of them."""
    old = property(lambda request: URL(f"http://{request.headers['host']}{request.scope['path']}"))
    monkeypatch.setattr(WebRequest, "url", old)
    metrics, options = Metrics(), ServerOptions(token="secret", log_requests=True)
    app = build_app(State(options, Models([], Request(), options, metrics), metrics))
    method = "POST" if path.endswith("infer") else "GET"
    headers = [(b"host", b"x/v2/health/")]
    scope: Any = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": headers}
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("the body is read")

    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == status


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", "/v2/models/amn/infer", 405), ("GET", "/v2/", 307), ("GET", "/v2", 200)],
)
def test_each_request_has_one_line_in_the_log(
    method: str, path: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    metrics, options = Metrics(), ServerOptions(log_requests=True)
    app = build_app(State(options, Models([], Request(), options, metrics), metrics))
    scope: Any = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": [(b"host", b"x")]}

    async def ignore(*_: Any) -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    caplog.set_level("INFO", "lvm_runtime.server")
    asyncio.run(app(scope, ignore, ignore))  # type: ignore[arg-type]
    (line,) = (vars(record) for record in caplog.records if record.message == "request")
    assert (line["method"], line["path"], line["status"]) == (method, path, status)
