"""What an HTTP connection makes of the pieces in which requests come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from lvm_runtime.server.connection import Connection, _Together

POST = b"POST / HTTP/1.1\r\n"


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.closed, self.reads = b"", False, True
        self.read_at = list[bool]()  # whether it read when each request ran

    def write(self, data: Any) -> None:
        """Take an answer; where that is too late, fail as uvloop's does."""
        if self.closed:
            raise RuntimeError("the handler is closed")
        self.written += data

    def close(self) -> None:
        """Note it."""
        self.closed = True

    def is_closing(self) -> bool:
        """Say whether it was closed."""
        return self.closed

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Have no buffer."""

    def pause_reading(self) -> None:
        """Note it."""
        self.reads = False

    def resume_reading(self) -> None:
        """Note it."""
        self.reads = True


def fed(
    pieces: Iterable[bytes | None],
    *,
    keep_alive: float = 75,
    turns: int = 4,
    timeout: float = 30,
    answering: float = 0,
) -> tuple[Transport, list[bytes]]:
    """Feed pieces to a connection until it is closed; return its transport and the bodies that the server got.

    None stands for the end of what the client sends. After each the loop has so many `turns`, and half the seconds
    that `answering` takes. With a short `keep_alive` wait until the connection is closed.
    """
    bodies: list[bytes] = []
    transport = Transport()

    async def app(scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message["body"], message["more_body"]
        bodies.append(body)
        transport.read_at.append(transport.reads)
        await asyncio.sleep(answering)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def run() -> Transport:
        config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None)
        config.timeout_keep_alive = keep_alive  # type: ignore[assignment]  # of less than a second
        connection = Connection(config, ServerState(), {}, asyncio.get_running_loop())
        connection.timeout = timeout
        connection.connection_made(transport)
        for piece in pieces:
            if piece is None:
                transport.closed = not connection.eof_received()
            elif not transport.closed:
                connection.data_received(piece)
            for _ in range(turns):
                await asyncio.sleep(0)
            await asyncio.sleep(answering / 2)
        end = time.monotonic() + 10
        while keep_alive < 1 and not transport.closed and time.monotonic() < end:
            await asyncio.sleep(0.001)
        connection.connection_lost(ConnectionResetError())  # which closes nothing itself
        return transport

    return asyncio.run(run()), bodies


@pytest.mark.parametrize(
    "head",
    [b"GET /", POST + b"x: ", POST + b"x", POST + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n0\r\nx: "],
    ids=["url", "value", "name", "trailer"],
)
def test_a_head_without_an_end_ends_the_connection(head: bytes) -> None:
    transport, bodies = fed([head, *[b"a" * 1024] * 80])
    assert transport.written.startswith(b"HTTP/1.1 408 ")
    assert transport.closed
    assert bodies == []


def test_a_body_may_be_longer_than_a_head() -> None:
    chunks = [b"400\r\n" + b"b" * 1024 + b"\r\n"] * 80
    for head, pieces in (
        (b"content-length: 81920\r\n\r\n", [b"b" * 1024] * 80),
        (b"transfer-encoding: chunked\r\n\r\n", [*chunks, b"0\r\n\r\n"]),
    ):
        transport, bodies = fed([POST + head, *pieces] * 2)
        assert transport.written.count(b"HTTP/1.1 200 ") == 2
        assert bodies == [b"b" * 81920] * 2


OFFER = POST + b"host: x\r\nUpgrade: h2c\r\nconnection: Upgrade\r\ncontent-length: 16\r\n\r\n\r\nupgrade: h2c\r\n"


def test_an_offer_of_another_protocol_may_come_in_any_pieces() -> None:
    cuts = [[OFFER[:place], OFFER[place:]] for place in range(1, len(OFFER) - 15)]
    for pieces in ([OFFER], [OFFER[i : i + 1] for i in range(len(OFFER))], *cuts):
        assert fed(pieces)[1] == [b"\r\nupgrade: h2c\r\n"], pieces


def test_an_offer_may_come_with_the_request_before_it() -> None:
    chunked = POST + b"transfer-encoding: chunked\r\n\r\n10\r\n\r\nupgrade: h2c\r\n\r\n0\r\n\r\n"
    for requests in (OFFER * 3, chunked + OFFER + chunked):
        cuts = [[requests[:place], requests[place:]] for place in range(len(requests))]
        for pieces in ([requests[i : i + 1] for i in range(len(requests))], *cuts):
            assert fed(pieces)[1] == [b"\r\nupgrade: h2c\r\n"] * 3, pieces


@pytest.mark.parametrize("turns", range(6))
def test_an_answer_is_sent_whenever_its_client_ends_what_it_sends(turns: int) -> None:
    transport, _ = fed([POST + b"content-length: 1\r\n\r\n{", None], turns=turns, keep_alive=0.01)
    assert transport.written.startswith(b"HTTP/1.1 200 ")
    assert transport.closed


@pytest.mark.parametrize("turns", range(6))
@pytest.mark.parametrize(
    "after",
    [b"P", POST + b"content-len", POST + b"content-length: 9\r\n\r\n{", b"\0", POST + b"x: " + b"x" * (70 << 10)],
    ids=["method", "head", "body", "garbage", "long"],
)
@pytest.mark.parametrize("ahead", [1, 3])
def test_requests_are_answered_whatever_comes_after_them(ahead: int, after: bytes, turns: int) -> None:
    sent = (POST + b"content-length: 1\r\n\r\n{") * ahead + after
    for pieces in ([sent, None], [sent[: -len(after)], after, None], [sent[: ahead - 2], sent[ahead - 2 :], None]):
        transport, bodies = fed(pieces, turns=turns, keep_alive=0.01)
        assert transport.written.count(b"HTTP/1.1 200 ") == ahead
        assert transport.written.startswith(b"HTTP/1.1 200 ")
        assert transport.written.count(b"HTTP/1.1 ") <= ahead + 1
        assert transport.closed
        assert bodies == [b"{"] * ahead


def test_nothing_is_read_while_requests_wait_for_those_before_them() -> None:
    transport, _ = fed([(POST + b"content-length: 1\r\n\r\n{") * 4], turns=40)
    assert transport.read_at == [False, False, False, True]
    assert transport.written.count(b"HTTP/1.1 200 ") == 4


def test_a_request_is_not_late_while_it_is_not_read() -> None:
    request = POST + b"content-length: 2\r\n\r\n{}"
    transport, bodies = fed([request + request[:-1], b"}"], answering=0.4, timeout=0.05, keep_alive=0.01)
    assert bodies == [b"{}"] * 2
    assert transport.written.count(b"HTTP/1.1 200 ") == 2


def test_an_answer_to_a_client_that_has_gone_is_no_failure() -> None:
    failures = list[Any]()

    async def run() -> None:
        loop, transport = asyncio.get_running_loop(), Transport()
        loop.set_exception_handler(lambda loop, failure: failures.append(failure))
        together = _Together(transport, loop)
        together.write(b"an answer")
        transport.close()
        await asyncio.sleep(0)

    asyncio.run(run())
    assert failures == []


@pytest.mark.parametrize("after", [b"", b"\r\n"], ids=["nothing", "an empty line"])
def test_a_connection_that_brings_no_other_request_is_closed(after: bytes) -> None:
    transport, bodies = fed([POST + b"content-length: 1\r\n\r\n{", after], keep_alive=0.01)
    assert (transport.closed, bodies) == (True, [b"{"])
