"""What OpenVINO would do besides, and does not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lvm_runtime import Predictor
from lvm_runtime.backends.openvino import OpenVinoBackend, has_bf16

Get = Callable[[str], Path]

SERVED = """
import os, sys, threading
import numpy as np
forks = []
os.register_at_fork(before=lambda: forks.append(threading.current_thread().name))
from lvm_runtime import Predictor
with Predictor(sys.argv[1], backend="openvino") as predictor:
    assert predictor.predict(np.ones((5, 16), np.float32)).shape == (16,)
loaded = [name for name in sys.modules if name.startswith("openvino_telemetry")]
assert not loaded, loaded
assert threading.active_count() == 1, threading.enumerate()
assert not forks, forks
import openvino_telemetry  # which others may still use
"""


def test_it_reports_nothing_to_its_maker(small_artifacts: Get) -> None:
    """On its own, `import openvino` starts a thread, which forks a child, which calls Google Analytics."""
    command = [sys.executable, "-W", "ignore", "-c", SERVED, str(small_artifacts("amn"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_a_process_has_one_core(small_artifacts: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there was another one before, reading a model ended the process now and then."""
    has_bf16()  # which makes it, unless it is there

    def second() -> None:
        raise AssertionError("OpenVINO has another Core")

    monkeypatch.setattr(OpenVinoBackend.load_framework(), "Core", second)
    has_bf16()
    Predictor(small_artifacts("amn"), backend="openvino").close()
