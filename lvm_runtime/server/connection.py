"""An HTTP connection with bounds: on how long it waits for a request and for its client, and on the size of headers."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator, Sized
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_log = logging.getLogger("lvm_runtime.server")
_MOST_HEADERS = 64 << 10
_UPGRADE = re.compile(rb"\nupgrade:", re.IGNORECASE)
_OFFER = len(b"\nupgrade")
_BODY = b'{"error":"the request did not come within the time for it, or its headers are too long"}'
_TIMED_OUT = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)


class _Together:
    """A transport that sends in one piece what is written in one turn of the loop: an answer's headers and body."""

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._held: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send `data` at the end of this turn."""
        if not self._held:
            self._loop.call_soon(self._send)
        self._held.append(data)

    def close(self) -> None:
        """Send what is held back, then close."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        held, self._held = self._held, []
        if held and not self._transport.is_closing():  # the client may have gone meanwhile
            self._transport.write(b"".join(held))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Flow(FlowControl):
    """Reads nothing while requests wait for those before them: each answer would bring thousands of short ones."""

    def __init__(self, transport: Any, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        """Read on, unless requests wait."""
        if not self._pipeline:
            super().resume_reading()


class Connection(HttpToolsProtocol):
    """uvicorn's connection, which ends a request that is slower than `timeout` seconds, before any answer.

    It also ends when its client takes nothing of an answer for as long: it would be held for ever, and delay a stop.
    """

    timeout = 30.0
    log_requests = False
    _deadline: asyncio.TimerHandle | None = None
    _untaken: asyncio.TimerHandle | None = None
    _coming = True  # a request that is not there yet; the first one is due with the connection
    _header_bytes = 0
    _unparsed = 0  # bytes since the last that were a body, of a head or a trailer that may not be there yet
    _in_head = True
    _tail = b""  # the end of what has come, which may be the beginning of an offer
    _whole: Any = None  # the cycle of the newest request that is there
    _last = False  # whether the connection ends with the answer to that request

    def connection_made(self, transport: Any) -> None:
        """Give a new connection its time to send something."""
        super().connection_made(_Together(transport, self.loop))  # type: ignore[arg-type]  # one by its methods
        self.flow = _Flow(self.transport, self.pipeline)
        transport.set_write_buffer_limits(1)  # pause_writing tells of all that waits for the client; TLS takes no 0
        self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._end()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for the client to take what is sent."""
        super().pause_writing()
        self._wait_for_client(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Go on: the client has taken everything."""
        if self._untaken is not None:
            self._untaken.cancel()
            self._untaken = None
        super().resume_writing()

    def _wait_for_client(self, left: int) -> None:
        self._untaken = self.loop.call_later(self.timeout, self._end_if_untaken, left)

    def _end_if_untaken(self, before: int) -> None:
        left = self.transport.get_write_buffer_size()
        if left < before:
            self._wait_for_client(left)
        else:
            self.transport.abort()

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's closes the connection at once
        """Keep a connection whose client sends no more until the last answer; TLS connections cannot be kept."""
        if self.scheme != "https" and self._end_after_answers():
            return True
        self.transport.close()  # which sends what is held back
        return False

    def _end_after_answers(self) -> bool:
        """Take nothing more, drop what is there in part, and say whether requests wait for answers; the last ends it.

        Anything else that is written before them would be taken for one of them.
        """
        whole = self._whole
        if whole is None or whole.response_complete:
            return False
        self._end()
        self._last, whole.keep_alive = True, False
        if self.cycle is not whole:
            self.pipeline.popleft()
            self.cycle = whole
        return True

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be read, after the answers to the requests before it by the end of the connection."""
        if not self._end_after_answers():
            super().send_400_response(msg)

    def data_received(self, data: bytes) -> None:
        """Take what came, and give a request that is not there in one piece its time.

        The parser drops the body of a request that offers to go on in another protocol, as each first one of Java's
        client does. None is spoken here, so it does not see the offer.
        """
        if self._in_head and not self._coming:
            data = data.lstrip(b"\r\n")  # which begin no request, and would end uvicorn's wait for one
            if not data:
                return
        for piece in self._without_offers(data):
            if not (self.transport.is_closing() or self._last):
                self._unparsed += len(piece)
                super().data_received(piece)
        if self._unparsed > _MOST_HEADERS:  # the parser joins the pieces of a header, however many come
            self._too_slow()
        elif self._coming and self._deadline is None and not (self.transport.is_closing() or self._last):
            self._begin()

    def _without_offers(self, data: bytes) -> Iterator[bytes]:
        """Yield `data` in pieces, with a `-` after each header's name that is an offer.

        A body may look like one. Whether it is one is known once the parser has what comes before the colon. A body
        that no other head follows is not searched, which takes 2 ms a MB.
        """
        joined, seen, begin = self._tail + data, len(self._tail), 0
        self._tail = joined[-_OFFER:]
        end = joined.find(b"\r\n\r\n", seen) if self._in_head else 0
        if end < 0 or joined.find(b"HTTP/", end) >= 0:
            end = len(joined)
        for found in _UPGRADE.finditer(joined, 0, end):
            colon = found.end() - 1 - seen
            yield data[begin:colon]
            if self._in_head:
                yield b"-"
            begin = colon
        yield data[begin:]

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._header_bytes = self._unparsed = 0
        self._coming = True
        self._end()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, and end the connection when all of them are too long."""
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > _MOST_HEADERS:
            self._too_slow()
        else:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Go on with the body."""
        self._in_head = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop waiting: the request is there."""
        self._in_head = True
        self._coming = False
        self._unparsed = 0
        self._whole = self.cycle
        self._end()
        super().on_message_complete()

    def _begin(self) -> None:
        self._deadline = self.loop.call_later(self.timeout, self._end_if_late)

    def _end(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end_if_late(self) -> None:
        if self.flow.read_paused:  # the rest may be there
            self._begin()
        else:
            self._too_slow()

    def _too_slow(self) -> None:
        self._end()
        if not (self.transport.is_closing() or self._end_after_answers()):
            if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
                self.transport.write(_TIMED_OUT)
                if not self._in_head:
                    self.scope["late"] = True  # type: ignore[typeddict-unknown-key]  # the application has it, and logs
                elif self.log_requests:
                    _log.info("request", extra={"method": None, "path": None, "status": 408})
            self.transport.close()
