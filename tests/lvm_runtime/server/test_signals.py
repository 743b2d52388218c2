"""Signals that come while the server starts or loads: none is lost, and none hits a process that does not listen."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from lvm_runtime import Request
from lvm_runtime.server.metrics import Metrics
from lvm_runtime.server.models import Models
from lvm_runtime.server.options import ServerOptions
from tests.lvm_runtime.server.serving import ROOT

Get = Callable[[str], Path]

STARTING = """
import os, signal, sys
from lvm_runtime.commands.main import main
from lvm_runtime.server import workers
from lvm_runtime.server.models import Models

workers._SHORT_LIFE = 0
where, name, *arguments = sys.argv[1:]
load, fork = Models.load, os.fork

def signalled(here, result):
    global where
    if here == where:
        where = None
        os.killpg(0, getattr(signal, name))
    return result

Models.load = lambda models: signalled("load", load(models))
os.fork = lambda: signalled("supervisor" if (process := fork()) else "worker", process)
sys.exit(main(["serve", *arguments, "--workers", "3", "--http-port", "0", "--grpc-port", "0", "--drain", "0"]))
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
@pytest.mark.parametrize("where", ["load", "supervisor", "worker"])
def test_a_signal_while_the_workers_start_is_heard(where: str, name: str, small_artifacts: Get) -> None:
    """It goes to all processes that there are by then, as Ctrl-C does; a worker does not listen yet."""
    command = [sys.executable, "-c", STARTING, where, name, str(small_artifacts("amn"))]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        late = threading.Timer(60, os.killpg, (process.pid, signal.SIGKILL))
        late.start()
        try:
            assert process.stderr is not None
            if name == "SIGHUP":
                _wait_for_loads(process.stderr, 1 + 3)
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                os.kill(int(children[0]), signal.SIGKILL)
                _wait_for_loads(process.stderr, 1)  # by the one that takes its place
                process.terminate()
            assert process.wait(60) == 0
        finally:
            late.cancel()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


LOADING = """
import sys, time
from lvm_runtime.commands.main import main
from lvm_runtime.server import workers
from lvm_runtime.server.models import Models

load, slow, *arguments = sys.argv[1:]
build, builds = Models._build, 0

def build_slowly(models):
    global builds
    builds += 1
    if builds == int(slow):
        print("loading", file=sys.stderr, flush=True)
        time.sleep(300)
    return build(models)

Models._build = build_slowly
if load == "each":
    workers._is_whole_after_fork = lambda predictor: False
sys.exit(main(["serve", *arguments, "--http-port", "0", "--grpc-port", "0", "--drain", "0", "--grace", "1"]))
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize(
    ("load", "slow", "workers"),
    [("first", 1, 1), ("again", 2, 1), ("first", 1, 2), ("each", 2, 2)],
    ids=["first", "again", "before the workers", "in each worker"],
)
def test_a_stop_does_not_wait_for_a_load(load: str, slow: int, workers: int, name: str, small_artifacts: Get) -> None:
    """The load with the number `slow`, counted in each process, does not end."""
    arguments = [load, str(slow), str(small_artifacts("amn")), "--workers", str(workers)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", LOADING, *arguments], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            if load == "again":
                assert any('"ready"' in line for line in process.stderr)
                process.send_signal(signal.SIGHUP)
            for _ in range(workers if load == "each" else 1):
                assert any("loading" in line for line in process.stderr)
            process.send_signal(getattr(signal, name))
            assert process.wait(60) == 0
            assert '"stopped"' in process.stderr.read()
        finally:
            process.kill()


def _wait_for_loads(log: IO[str], expected: int) -> None:
    while expected and (line := log.readline()):
        expected -= '"loaded"' in line
    assert expected == 0


class Numbered(Models):
    """Models that say how often they were loaded; the first load waits for the gate, and the third fails."""

    def __init__(self) -> None:
        super().__init__([], Request(), ServerOptions(), Metrics())
        self.began, self.served, self.gate = 0, list[int](), threading.Event()

    def _build(self) -> Any:
        self.began += 1
        number = self.began
        if number == 1:
            self.gate.wait(20)
        if number == 3:
            raise MemoryError("not enough of it")
        return [number]

    def _take_over(self, fresh: Any) -> Any:
        self.served += fresh
        return []


@pytest.mark.parametrize("first", ["load_first", "reload"])
def test_models_that_were_read_later_take_over_later(first: str) -> None:
    async def run() -> Numbered:
        models = Numbered()
        tasks = [asyncio.ensure_future(getattr(models, name)()) for name in (first, "reload", "reload")]
        while not models.began:
            await asyncio.sleep(0.001)
        asyncio.get_running_loop().call_later(0.1, models.gate.set)
        await asyncio.gather(*tasks)
        return models

    models = asyncio.run(run())
    assert models.served == [1, 2]
    assert models.began == 2  # what was asked for twice, before it began, came once


def test_a_reload_that_fails_of_anything_leaves_the_models(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> Numbered:
        models = Numbered()
        models.gate.set()
        for _ in range(4):
            await models.reload()
        return models

    assert asyncio.run(run()).served == [1, 2, 4]
    assert "reload failed, the models before go on: not enough of it" in caplog.text
