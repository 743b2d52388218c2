"""Signals that come while the server starts: none is lost, and none hits a process that does not listen yet."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lvm_runtime.server.serving import ROOT

Get = Callable[[str], Path]

STARTING = """
import os, signal, sys
from lvm_runtime.commands.main import main
from lvm_runtime.server.models import Models

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
            loaded, expected = 0, 1 + 3 if name == "SIGHUP" else 0
            while loaded < expected and (line := process.stderr.readline()):
                loaded += '"loaded"' in line
            assert loaded == expected
            if expected:
                process.terminate()
            assert process.wait(60) == 0
        finally:
            late.cancel()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
