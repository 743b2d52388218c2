"""Starting, loading again, stopping: no request that was taken is lost."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from lvm_runtime import Predictor, Request
from lvm_runtime.commands.main import main
from lvm_runtime.errors import InvalidInput, LvmError
from lvm_runtime.server.models import Models
from lvm_runtime.server.options import ServerOptions
from lvm_runtime.server.workers import serve
from lvm_runtime.system import atomic
from tests.artifacts import some_contexts
from tests.lvm_runtime.server.serving import ROOT, Running, serving
from tests.lvm_runtime.server.test_clients import client, curl, infer
from tests.lvm_runtime.server.test_refusals import request

Get = Callable[[str], Path]


class Load:
    """Clients that ask without a pause, until they are told to stop or that the server is no longer ready."""

    def __init__(self, server: Running, predictor: Any, clients: int) -> None:
        self.contexts = some_contexts(1)
        self.expected = predictor.predict(self.contexts)
        self.server, self.answered, self.failed = server, 0, list[str]()
        self.stop = threading.Event()
        sides = ("http", "grpc") * (clients // 2)
        self._threads = [threading.Thread(target=self._ask, args=(side,)) for side in sides]
        self._threads.append(threading.Thread(target=self._watch))

    def _watch(self) -> None:
        while not self.stop.wait(0.05):
            if curl(self.server, "/v2/health/ready")[0] != 200:
                self.stop.set()

    def _ask(self, side: str) -> None:
        module, ask = client(self.server, side)
        while not self.stop.is_set():
            try:
                np.testing.assert_array_equal(infer(module, ask, self.contexts)[0], self.expected)
                self.answered += 1
            except Exception as error:
                self.failed.append(f"{side}: {error!r} {error}")
                break
        ask.close()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Ask while the body runs, and wait for the clients to end."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            for thread in self._threads:
                thread.join(60)

    def wait_for(self, more: int) -> None:
        """Wait until that many more requests are answered."""
        goal, end = self.answered + more, time.monotonic() + 60
        while self.answered < goal and not self.failed and time.monotonic() < end:
            time.sleep(0.01)
        assert self.answered >= goal, self.failed


def test_workers_reload_and_drain_under_load(small_artifacts: Get, tmp_path: Path) -> None:
    path, other = small_artifacts("amn"), tmp_path / "other"
    drifts = {_drift(found): found for found in (path, small_artifacts("lstm"))}
    shutil.copytree(drifts[max(drifts)], other)
    with (
        Predictor(path, threads=1) as predictor,
        serving(f"amn={path}", f"other={other}", "--workers", "2", "--drain", "1") as server,
    ):
        load = Load(server, predictor, 8)
        with load.running():
            load.wait_for(100)
            shutil.rmtree(other)
            shutil.copytree(drifts[min(drifts)], other)
            server.process.send_signal(signal.SIGHUP)
            load.wait_for(200)
            while server.names().count("loaded") < 2 * (1 + 2):  # before the fork, and again in each worker
                time.sleep(0.01)
            metrics = curl(server, "/metrics")[1].decode()
            status = server.stop()
        assert not load.failed
        assert status == 0
        counted = sum(float(n) for n in re.findall(r'lvm_requests_total{.*status="200".*} (\S+)', metrics))
        assert 300 <= counted <= load.answered + 8
        assert server.names().count("loaded") == 2 * (1 + 2)
        assert server.names().count("stopped") == 2
        (drift,) = re.findall(r'lvm_drift{model="other",version="1"} (\S+)', metrics)
        assert float(drift) == min(drifts)


def _drift(path: Path) -> float:
    with Predictor(path, threads=1) as predictor:
        return predictor.explain().running.drift


def test_a_reload_answers_what_was_on_its_way_and_a_failed_one_leaves_the_old_model(
    small_artifacts: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(small_artifacts("amn"), tmp_path / "amn")
    body = request()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    for name in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
        monkeypatch.setenv(name, str(tmp_path / "folder of another program"))  # which is not there any more
    with serving(str(tmp_path / "amn"), "--drain", "0") as server:
        host, port = server.http.split(":")
        with socket.create_connection((host, int(port)), 60) as slow:
            slow.sendall(b"POST /v2/models/amn/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body))
            slow.sendall(body[:10])
            server.process.send_signal(signal.SIGHUP)
            while server.names().count("loaded") < 2:
                time.sleep(0.01)
            time.sleep(0.1)
            slow.sendall(body[10:])
            assert slow.recv(4096).startswith(b"HTTP/1.1 200 ")
        (tmp_path / "amn" / "manifest.json").write_text("{}")
        server.process.send_signal(signal.SIGHUP)
        while not any("reload failed" in name for name in server.names()):
            time.sleep(0.01)
        module, ask = client(server, "http")
        assert infer(module, ask, some_contexts(1))[0].shape == (1, 16)
        ask.close()
        assert list((tmp_path / "tmp").iterdir()) == []  # one process counts in its memory
        assert server.stop() == 0


def test_workers_stop_when_their_supervisor_is_killed(
    small_artifacts: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with serving(f"amn={small_artifacts('amn')}", "--workers", "2", "--drain", "0") as server:
        server.process.kill()
        end = time.monotonic() + 30
        while server.names().count("stopped") < 2 and time.monotonic() < end:
            time.sleep(0.05)
        assert server.names().count("the supervisor is gone") == 2
        assert server.names().count("stopped") == 2
    (left,) = tmp_path.iterdir()  # where the workers counted; it is theirs until they have ended
    with atomic.file_lock(left / ".in-use", timeout=30):
        pass
    with atomic.scratch(tmp_path) as holder:  # as the next server makes one
        assert list(tmp_path.iterdir()) == [holder]


def _workers(server: Running) -> list[int]:
    supervisor = server.process.pid
    return [int(child) for child in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()]


def _until_listening(server: Running, workers: int) -> None:
    """Wait until so many workers have said, since the server began, that they listen."""
    end = time.monotonic() + 60
    while server.names().count("listening") < workers and time.monotonic() < end:
        time.sleep(0.05)


def test_a_worker_that_ends_at_once_ends_the_server(small_artifacts: Get) -> None:
    with serving(f"amn={small_artifacts('amn')}", "--workers", "2", "--drain", "0") as server:
        _until_listening(server, 2)  # one that is told to stop before that says nothing
        os.kill(_workers(server)[0], signal.SIGKILL)
        assert server.process.wait(60) == 1
        assert {"a worker ended", "stopped"} <= set(server.names())
        assert server.names()[-1].startswith("error: a worker ended within 5 s of its start")


@pytest.mark.soak
def test_a_worker_that_dies_is_replaced(small_artifacts: Get) -> None:
    with serving(f"amn={small_artifacts('amn')}", "--workers", "2", "--drain", "0") as server:
        time.sleep(5.5)
        first, second = _workers(server)
        os.kill(first, signal.SIGKILL)
        _until_listening(server, 3)
        found = _workers(server)
        assert len(found) == 2
        assert second in found
        assert first not in found
        assert server.stop() == 0


def test_what_cannot_be_served_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="manifest"), serving(str(tmp_path)):
        pass


def test_a_system_without_signals_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delattr(signal, "pthread_sigmask")
    assert main(["serve", "somewhere"]) == 1
    told = "serve needs the signals of Linux or macOS; on Windows run it in WSL or in a container"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("token", [b"", b"\xff\xfe", "schlüssel".encode(), b"two\nlines"], ids=str)
def test_a_token_that_no_header_can_hold_is_one_line(token: bytes, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "token").write_bytes(token)
    assert main(["serve", "somewhere", "--token-file", str(tmp_path / "token")]) == 1
    assert (
        capsys.readouterr().err == "error: the token is empty or holds what a header cannot; expected printable ASCII\n"
    )


@pytest.mark.parametrize(
    "host", ["no-such-host.invalid", "300.0.0.1", "192.0.2.1", "a" * 64], ids=lambda host: host[:20]
)
def test_a_host_that_is_not_this_machine_is_at_fault_and_not_the_port(host: str) -> None:
    with pytest.raises(LvmError, match=rf"host '{host}' cannot be listened on \(.*\); expected an address of this"):
        serve([], Request(), ServerOptions(host=host, http_port=0))


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this system has no IPv6")
def test_both_sides_answer_ipv4_and_ipv6_where_they_listen_everywhere(small_artifacts: Get) -> None:
    with serving(str(small_artifacts("amn")), "--host", "::") as server:
        for host in ("127.0.0.1", "::1"):
            for side in (server.http, server.grpc):
                socket.create_connection((host, int(side.rpartition(":")[2])), 20).close()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("side", ["HTTP", "gRPC"])
def test_a_port_in_use_is_at_fault_and_told_before_a_model_is_loaded(
    side: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(models: Models) -> None:
        raise AssertionError("the models are loaded")

    monkeypatch.setattr(Models, "load", load)
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        ports: Any = {"http_port": 0, "grpc_port": 0} | {f"{side.lower()}_port": taken.getsockname()[1]}
        with pytest.raises(LvmError) as refused:
            serve([], Request(), ServerOptions(workers=workers, **ports))
    assert re.match(
        rf"port \d+ of 127\.0\.0\.1 cannot be used for {side} \(.*\); choose another: --{side.lower()}-port",
        str(refused.value),
    )


def test_one_port_for_both_sides_is_told_before_a_model_is_loaded() -> None:
    with pytest.raises(InvalidInput, match="http_port and grpc_port are both 8000; expected two ports"):
        ServerOptions(grpc_port=8000)
    ServerOptions(http_port=0, grpc_port=0)


LOADING = """
import socket, sys
from lvm_runtime import LvmError, Request
from lvm_runtime.server.models import Models
from lvm_runtime.server.options import ServerOptions
from lvm_runtime.server.workers import serve

http, grpc, workers = map(int, sys.argv[1:])

def load(models):
    for port in (http, grpc):
        with socket.socket() as client:
            print(client.connect_ex(("127.0.0.1", port)))
    raise LvmError("it cannot be served")

Models.load = load
serve([], Request(), ServerOptions(http_port=http, grpc_port=grpc, workers=workers))
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_nobody_can_connect_before_every_model_is_loaded(workers: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as http, socket.create_server(("127.0.0.1", 0)) as grpc:
        ports = [str(free.getsockname()[1]) for free in (http, grpc)]
    command = [sys.executable, "-c", LOADING, *ports, str(workers)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.stdout.splitlines() == 2 * [str(errno.ECONNREFUSED)], done.stderr
    assert done.stderr.splitlines()[-1].endswith("LvmError: it cannot be served")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_form_that_is_missing_is_one_line_and_nothing_else(small_artifacts: Get, workers: str) -> None:
    form = ("--backend", "onnx", "--precision", "int8", "--workers", workers)
    with pytest.raises(AssertionError) as refused, serving(str(small_artifacts("amn")), *form):
        pass
    assert re.match(r"\[\{'event': 'error: [^']+ has no onnx int8 form [^']+'\}\]", str(refused.value))


def _make_pair(cert: Path, key: Path) -> None:
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-keyout", key, "-out", cert]
    subprocess.run([*map(str, make), *names], check=True, capture_output=True)


def test_a_certificate_and_its_key_are_looked_at_before_anything_else(tmp_path: Path) -> None:
    cert, key, other = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "other.pem"
    _make_pair(cert, other)
    _make_pair(cert, key)
    ServerOptions(tls_cert=cert, tls_key=key)
    for wrong in ((cert, other), (key, key), (key, cert)):
        with pytest.raises(InvalidInput, match=r"\.pem: no certificate and its key \(.*\); expected both in PEM form"):
            ServerOptions(tls_cert=wrong[0], tls_key=wrong[1])
    with pytest.raises(FileNotFoundError) as missing:
        ServerOptions(tls_cert=cert, tls_key=tmp_path / "none.pem")
    assert missing.value.filename == str(tmp_path / "none.pem")


def _ask_as_docker_does(address: str) -> None:
    (check,) = re.findall(r"^HEALTHCHECK CMD (.*)$", (ROOT / "deploy/Dockerfile").read_text(), re.MULTILINE)
    command = [sys.executable, *json.loads(check)[1:]]
    subprocess.run(command, env=os.environ | {"LVM_HEALTH": f"{address}/v2/health/ready"}, check=True)
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run(command, env=os.environ | {"LVM_HEALTH": f"{address}/nowhere"}, check=True)


def test_tls_and_token(small_artifacts: Get, tmp_path: Path) -> None:
    cert, key, token = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "token"
    _make_pair(cert, key)
    token.write_text("secret\n")
    files = ("--tls-cert", str(cert), "--tls-key", str(key), "--token-file", str(token))
    with serving(str(small_artifacts("amn")), *files, "--drain", "0") as server:
        context = ssl.create_default_context(cafile=cert)
        web = tritonclient.http.InferenceServerClient(
            server.http, ssl=True, ssl_context_factory=lambda: context, ssl_options={"ca_certs": str(cert)}
        )
        rpc = tritonclient.grpc.InferenceServerClient(server.grpc, ssl=True, root_certificates=str(cert))
        for module, ask in ((tritonclient.http, web), (tritonclient.grpc, rpc)):
            assert ask.is_server_ready()
            for wrong in ({}, {"authorization": "Bearer secre"}):
                with pytest.raises(Exception, match="Bearer TOKEN"):
                    infer(module, ask, some_contexts(1), headers=wrong)
            right = {"authorization": "Bearer secret"}
            assert infer(module, ask, some_contexts(1), headers=right)[0].shape == (1, 16)
            ask.close()
        _ask_as_docker_does(f"https://{server.http}")
        plain = grpc.insecure_channel(server.grpc)
        with pytest.raises(grpc.RpcError):
            plain.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=5)
        plain.close()


@pytest.mark.soak
def test_no_request_is_lost_over_many_stops(small_artifacts: Get) -> None:
    path = small_artifacts("amn")
    with Predictor(path, threads=1) as predictor:
        for workers in ("1", "2") * 5:
            with serving(f"amn={path}", "--workers", workers, "--drain", "1") as server:
                load = Load(server, predictor, 32)
                with load.running():
                    load.wait_for(500)
                    os.kill(server.process.pid, signal.SIGTERM)
                assert not load.failed
                assert server.process.wait(60) == 0
