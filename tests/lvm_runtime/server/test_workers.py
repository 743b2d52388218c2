"""What the processes of a server share, and what becomes of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lvm_runtime import Predictor
from lvm_runtime.server.workers import _is_whole_after_fork
from tests.lvm_runtime.server.serving import ROOT

LOADING = """
import os, sys
from lvm_runtime.commands.main import main
from lvm_runtime.errors import LvmError
from lvm_runtime.server import workers
from lvm_runtime.server.models import Models

failing, life, artifact = sys.argv[1].split(","), float(sys.argv[2]), sys.argv[3]
workers._SHORT_LIFE, workers._LONGEST_PAUSE = life, 0.01
workers._is_whole_after_fork = lambda predictor: False
forks, fork, load = 0, os.fork, Models.load

def numbered():
    global forks
    forks += 1
    return fork()

def load_or_fail(models):
    if str(forks) in failing:
        models.opening = models.specs[0]
        raise LvmError("out of luck")
    load(models)

os.fork, Models.load = numbered, load_or_fail
sys.exit(main(["serve", artifact, "--workers", "2", "--http-port", "0", "--grpc-port", "0", "--drain", "0"]))
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_workers_share_only_what_keeps_its_threads(threads: int, small_artifacts: Callable[[str], Path]) -> None:
    with Predictor(small_artifacts("amn"), threads=threads) as predictor:
        assert _is_whole_after_fork(predictor) == (threads == 1)


@pytest.mark.parametrize(("failing", "life"), [("2,3,4", "5"), ("1,2,3,4,5,6,7,8,9", "0")], ids=["one", "all"])
def test_a_worker_that_cannot_load_tries_again_while_others_serve(
    failing: str, life: str, small_artifacts: Callable[[str], Path]
) -> None:
    """`failing` are the workers that cannot, in the order of their starts, and `life` what counts as a short one."""
    command = [sys.executable, "-c", LOADING, failing, life, str(small_artifacts("amn"))]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        events, last = list[dict[str, object]](), ""
        for last in process.stderr:
            events += [json.loads(last)] if last.startswith("{") else []
            names = [event["event"] for event in events]
            if names.count("ready") == 2 or len(events) > 40:
                process.terminate()
        status = process.wait(60)
    failures = [event for event in events if event["event"] == "failed: out of luck"]
    assert {event["model"] for event in failures} == {"amn:1"}
    if life == "5":
        assert (status, len(failures), names.count("ready"), names.count("stopped")) == (0, 3, 2, 2)
    else:
        assert (status, last) == (1, "error: no worker could load its models and serve; the log says why\n")
