"""Ctrl-C at any moment of a command: a word, status 130 and no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PRESS = """
import runpy, signal, sys
moment, *sys.argv = sys.argv[1:]
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's jobs in the background ignore

class Press:
    def find_spec(self, name, path=None, target=None):
        if name == moment:
            signal.raise_signal(signal.SIGINT)

def at_exit():
    signal.raise_signal(signal.SIGINT)

if moment == "exit":
    import atexit
    atexit.register(at_exit)
sys.meta_path.insert(0, Press())
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def press(moment: str, *line: str) -> subprocess.CompletedProcess[str]:
    """Run a command line in which Ctrl-C comes when the module `moment` is about to be imported, or at the exit."""
    command = [sys.executable, "-c", PRESS, moment, "lvm_runtime", *line]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize(
    "moment",
    [
        "argparse",
        "lvm_runtime.commands.main",
        "lvm_runtime.commands.explain",
        "numpy",
        "datetime",  # which numpy asks for in C, and then says that numpy cannot be imported
        "onnxruntime",
        "onnxruntime.capi.onnxruntime_pybind11_state",
    ],
)
def test_while_something_is_imported(small_artifacts: Callable[[str], Path], moment: str) -> None:
    done = press(moment, "explain", str(small_artifacts("amn")), "--backend", "onnx")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.skipif(os.name != "posix", reason="a status of POSIX")
def test_at_the_exit_it_ends_the_process(small_artifacts: Callable[[str], Path]) -> None:
    done = press("exit", "info", str(small_artifacts("amn")))
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")  # which a shell says as 130
