"""Requests that cannot be answered get a reason, and the next one its answer."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lvm_runtime.errors import LvmError
from lvm_runtime.server.codec import decode
from lvm_runtime.server.tensors import from_numbers
from tests.artifacts import some_contexts
from tests.lvm_runtime.server.serving import Running
from tests.lvm_runtime.server.test_clients import client, curl, infer

SHAPE = [1, 5, 16]


def request(**changes: Any) -> bytes:
    """Return the body of a good request, its tensor changed."""
    tensor = {"name": "context", "datatype": "FP32", "shape": SHAPE, "data": [0.5] * 80} | changes
    return json.dumps({"inputs": [{name: value for name, value in tensor.items() if value is not None}]}).encode()


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{", 400, "no JSON"),
        (b"[" + b"{" * 100_000, 400, "more than 100000 lists and objects"),
        (b"[]", 400, "expected an object"),
        (b"{}", 400, "inputs: got NoneType, expected a list"),
        (request(name="x"), 400, "expected one of name context"),
        (request(datatype="INT8"), 400, "expected one of FP32, FP16, FP64"),
        (request(shape=[1, 4, 16], data=[0.5] * 64), 400, "shape is [1, 4, 16], expected [B, 5, 16]"),
        (request(shape=[1, -5, 16]), 400, "expected a list of whole numbers"),
        (request(shape=[1] * 65, data=[0.5]), 400, "expected a list of whole numbers, [B, T, D]"),
        (request(shape=[0, 1 << 39, 1 << 39], data=[]), 400, "expected a list of whole numbers, [B, T, D]"),
        (request(data=[0.5] * 79), 400, "data of shape [79], expected [1, 5, 16], flat or nested"),
        (request(data=["a"] * 80), 400, "something else than numbers"),
        (request(data=[0.5] * 79 + [True]), 400, "something else than numbers"),
        (request(data=[[[0.5] * 16] * 4 + [[2] * 15 + [False]]]), 400, "something else than numbers"),
        (request(data=None), 400, "neither data nor a binary_data_size"),
        (
            request(shape=[2, 5, 16], data=[0.5] * 100 + [1e39] + [0.5] * 59),
            400,
            "row 1, position 1, component 4 is inf",
        ),
        (
            request()[:-1] + b', "outputs": [{"name": "prediction"}, {"name": "prediction"}]}',
            400,
            "prediction is there twice",
        ),
        (request(shape=[201, 5, 16], data=[0] * 80 * 201), 413, "201 contexts, expected at most 200"),
        (b" " * 300_001, 413, "more than 300000 bytes"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_bad_request_is_told_why(server: Running, body: bytes, status: int, says: str) -> None:
    found, answer = curl(server, "/v2/models/amn/infer", "--data-binary", "@-", body=body)
    assert found == status
    assert says in json.loads(answer)["error"]


def test_what_is_not_there(server: Running) -> None:
    for path, says in (
        ("/v2/models/gpt", "no model 'gpt'"),
        ("/v2/models/amn/versions/3", "no version '3'"),
        ("/v3", ""),
    ):
        status, answer = curl(server, path)
        assert (status, says in json.loads(answer)["error"]) == (404, True)
    assert curl(server, "/v2/models/amn/infer")[0] == 405
    assert curl(server, "/v2/models/amn/infer", "-d", "x", "-H", "content-encoding: br")[0] == 415


@pytest.mark.parametrize("side", ["http", "grpc"])
def test_clients_raise_the_reason(server: Running, side: str) -> None:
    module, ask = client(server, side)
    bad = some_contexts(3)
    bad[2, 1, 4] = np.nan
    with pytest.raises(Exception, match="row 2, position 1, component 4 is nan"):
        infer(module, ask, bad)
    with pytest.raises(Exception, match="no model 'gpt'"):
        infer(module, ask, bad, model="gpt")
    with pytest.raises(Exception, match=r"shape is \[3, 5, 8\]"):
        infer(module, ask, np.ascontiguousarray(bad[:, :, :8]))
    assert infer(module, ask, bad[:2])[0].shape == (2, 16)
    ask.close()


@pytest.mark.parametrize("side", ["http", "grpc"])
def test_what_would_change_the_answer_is_refused_and_not_passed_over(server: Running, side: str) -> None:
    module, ask = client(server, side)
    contexts = some_contexts(2)
    with pytest.raises(Exception, match=r"classification is not supported.*whole tensor") as told:
        infer(module, ask, contexts, got={"class_count": 3})
    assert str(told.value.status()) in ("400", "StatusCode.INVALID_ARGUMENT")  # type: ignore[attr-defined]
    with pytest.raises(Exception, match=r"sequence_id is not supported.*remember nothing"):
        infer(module, ask, contexts, sequence_id=7)
    tensor, output = module.InferInput("context", [2, 5, 16], "FP32"), module.InferRequestedOutput("prediction")
    output.set_shared_memory("region", 128)
    tensor.set_data_from_numpy(contexts)
    with pytest.raises(Exception, match="shared_memory_region is not supported"):
        ask.infer("amn", [tensor], outputs=[output])
    tensor.set_shared_memory("region", contexts.nbytes)
    with pytest.raises(Exception, match="shared_memory_region is not supported"):
        ask.infer("amn", [tensor])
    assert infer(module, ask, contexts, priority=2, timeout=10**6)[0].shape == (2, 16)
    ask.close()


def test_a_bomb_is_not_unpacked(server: Running) -> None:
    bomb, small = gzip.compress(b" " * 50_000_000), gzip.compress(request())
    assert len(bomb) < 100_000
    for packed, status in ((bomb, 413), (small[:-9], 400), (small + small, 400), (b"no gzip", 400), (small, 200)):
        head = ("-H", "content-encoding: gzip", "--data-binary", "@-")
        assert curl(server, "/v2/models/amn/infer", *head, body=packed)[0] == status


def test_slow_and_cut_off_requests_end(server: Running) -> None:
    host, port = server.http.split(":")
    head = b"POST /v2/models/amn/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n"
    slow = [socket.create_connection((host, int(port)), 20) for _ in range(4)]
    for connection, sent in zip(slow, (b"", b"POST /v2", head, head + b"{" * 10), strict=True):
        connection.sendall(sent)
    for connection in slow:
        answer = b"".join(iter(lambda c=connection: c.recv(4096), b""))  # type: ignore[misc]
        assert answer.startswith(b"HTTP/1.1 408 ")
        connection.close()
    end, logged = time.monotonic() + 20, list[str]()
    while len(logged) < 4 and time.monotonic() < end:
        logged = [str(event["path"]) for event in server.events if event.get("status") == 408]
    assert sorted(logged) == ["/v2/models/amn/infer"] * 2 + ["None"] * 2  # of no head
    with socket.create_connection((host, int(port))) as cut:
        cut.sendall(head + b"{" * 10)
    with socket.create_connection((host, int(port)), 20) as long:
        long.sendall(b"GET /v2 HTTP/1.1\r\n" + b"x-name: " + b"y" * 70_000 + b"\r\n\r\n")
        assert b" 408 " in long.recv(4096) or b" 400 " in long.recv(4096)
    assert curl(server, "/v2/health/live")[0] == 200
    assert "failed" not in server.names()


@pytest.mark.parametrize("ahead", [0, 1], ids=["alone", "after another"])
def test_a_client_that_sends_no_more_gets_its_answers(server: Running, ahead: int) -> None:
    host, port = server.http.split(":")
    head = b"POST /v2/models/amn/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(request())
    for cut, answers in ((0, ahead + 1), (1, ahead)):  # half a request gets none
        with socket.create_connection((host, int(port)), 20) as asking:
            sent = (head + request()) * (ahead + 1)
            asking.sendall(sent[: len(sent) - cut])
            asking.shutdown(socket.SHUT_WR)
            assert b"".join(iter(lambda s=asking: s.recv(4096), b"")).count(b"HTTP/1.1 200 ") == answers


GET = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\nx-long: %s\r\n\r\n" % (2000 * b"y")


def _ask_on(client: socket.socket, take: int, seconds: float) -> tuple[int, bytes]:
    """Send requests for so many seconds, and take so many bytes of the answers each 0.1 s."""
    sent, taken, end = 0, b"", time.monotonic() + seconds
    client.settimeout(0.1)
    while time.monotonic() < end:
        with contextlib.suppress(TimeoutError):
            while True:
                sent += client.send(GET[sent % len(GET) :] + 50 * GET)
        with contextlib.suppress(TimeoutError):
            taken += client.recv(take) if take else b""
    return sent // len(GET), taken


def test_a_client_that_takes_no_answer_is_let_go(server: Running) -> None:
    host, port = server.http.split(":")
    with socket.create_connection((host, int(port))) as stuck, pytest.raises(ConnectionError):
        _ask_on(stuck, 0, 40)


def test_a_client_that_takes_its_answers_slowly_gets_them_all(server: Running) -> None:
    host, port = server.http.split(":")
    with socket.create_connection((host, int(port))) as slow:
        asked, taken = _ask_on(slow, 1 << 18, 5)
        slow.settimeout(20)
        slow.shutdown(socket.SHUT_WR)
        taken += b"".join(iter(lambda: slow.recv(1 << 20), b""))
        assert taken.count(b"HTTP/1.1 200 ") == asked


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 1 << 41) | st.floats(allow_nan=False, width=32) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["name", "data", "shape"]), inner),
    max_leaves=8,
)
TENSOR = st.fixed_dictionaries(
    {"name": st.just("context") | JSON, "datatype": st.sampled_from(["FP32", "FP16", "FP64"]) | JSON},
    optional={"shape": st.lists(st.integers(0, 3), max_size=4) | JSON, "data": JSON, "parameters": JSON},
)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    request=st.fixed_dictionaries(
        {"inputs": st.lists(TENSOR, max_size=2) | JSON}, optional={"outputs": JSON, "id": JSON, "parameters": JSON}
    ),
    tail=st.binary(max_size=20),
    length=st.none() | st.text(max_size=3) | st.integers(0, 400).map(str),
)
def test_no_request_breaks_the_decoder(request: Any, tail: bytes, length: str | None) -> None:
    body = json.dumps(request).encode() + tail
    try:
        call = decode(body, length)
    except LvmError:
        return
    assert call.contexts.dtype.kind == "f"


def test_a_shape_of_many_sizes_is_refused_before_they_are_multiplied() -> None:
    """The product of 80,000 took 18 s, in which nobody was answered."""
    with pytest.raises(LvmError, match="expected a list of whole numbers"):
        from_numbers("context", "FP32", [(1 << 30) - 1] * 20_000, [])
    largest = [0, (1 << 30) - 1, (1 << 30) - 1]
    assert from_numbers("context", "FP64", largest, []).shape == tuple(largest)


def test_a_head_that_came_before_is_checked_against_its_own_bytes() -> None:
    first, second = some_contexts(1), some_contexts(2)[1:]
    tensor = {"name": "context", "datatype": "FP32", "shape": SHAPE, "parameters": {"binary_data_size": first.nbytes}}
    head = json.dumps({"inputs": [tensor], "outputs": [{"name": "prediction"}]}).encode()
    length = str(len(head))
    for contexts in (first, second):
        np.testing.assert_array_equal(decode(head + contexts.tobytes(), length).contexts, contexts)
    for wrong in ("9" * 5000, "-1", "", "1e2"):  # Python makes no number of more than 4,300 digits
        with pytest.raises(LvmError, match="expected at most the body's"):
            decode(head, wrong)
    for _ in range(2):
        with pytest.raises(LvmError, match="binary_data_size is 320, and 319 bytes follow"):
            decode(head + first.tobytes()[:-1], length)


def test_a_thousand_connections(server: Running) -> None:
    host, port = server.http.split(":")
    body = request()
    message = b"POST /v2/models/amn/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    connections = []
    for _ in range(1000):
        connections.append(socket.create_connection((host, int(port)), 60))
        connections[-1].sendall(message)
    statuses = [connection.recv(65536).split()[1] for connection in connections]
    for connection in connections:
        connection.close()
    assert set(statuses) <= {b"200", b"503"}
    assert statuses.count(b"200") >= 400
    assert curl(server, "/v2/health/ready")[0] == 200
