"""Importing what Ctrl-C must not stop half-way."""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lvm_runtime.backends.onnx import OnnxBackend
from lvm_runtime.commands.main import main
from lvm_runtime.errors import BackendUnavailable
from lvm_runtime.system import extras, imports
from lvm_runtime.system.imports import load

COMPILED = """
import signal
try:
    for _ in range({times}):
        signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt as error:
    raise ImportError("initialization failed") from error
done = True
"""


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the name of a module that fails as a compiled one does when Ctrl-C comes during its import."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "compiled_stub.py").write_text(COMPILED.format(times=1))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's jobs in the background ignore Ctrl-C
    yield "compiled_stub"
    signal.signal(signal.SIGINT, before)
    sys.modules.pop("compiled_stub", None)


def test_ctrl_c_during_an_import_comes_after_it_and_is_no_missing_library(compiled: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        extras.require("torch", "this", compiled)
    assert sys.modules[compiled].done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert extras.require("torch", "this", compiled) is sys.modules[compiled]


def test_a_framework_that_fails_in_its_own_way_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As PyTorch does whose CUDA is missing, or what was compiled for another NumPy."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "broken_stub.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')")
    problem = r"cannot be imported.*OSError: libcudart\.so\.13"
    with pytest.raises(BackendUnavailable, match=rf"this needs broken_stub, which {problem}"):
        extras.require("torch", "this", "broken_stub")
    monkeypatch.setattr(OnnxBackend, "framework", "broken_stub")
    with pytest.raises(BackendUnavailable, match=rf"backend onnx is not available: broken_stub {problem}"):
        OnnxBackend.load_framework()
    assert main(["doctor"]) == 0
    assert re.search(rf"onnx +no +broken_stub {problem}", capsys.readouterr().out)


def test_a_second_ctrl_c_does_not_wait(compiled: str, tmp_path: Path) -> None:
    (tmp_path / f"{compiled}.py").write_text(COMPILED.format(times=2))
    with pytest.raises(KeyboardInterrupt):
        load(compiled)
    assert compiled not in sys.modules
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_program_keeps_its_own_handler(compiled: str) -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        load(compiled)
        assert came == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_import_without_signals() -> None:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(load("json")))
    thread.start()
    thread.join()
    assert found == [sys.modules["json"]]


def test_what_is_there_is_returned_without_a_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run on torch asks for it three times, and the guard changes the process's handler of Ctrl-C twice."""

    def guard() -> None:
        raise AssertionError("the guard of an import")

    monkeypatch.setattr(imports, "_interrupted_afterwards", guard)
    assert load("json") is sys.modules["json"]
    assert load("os.path") is sys.modules["os.path"]


def test_what_another_thread_is_importing_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "slow_stub.py").write_text("begun.set()\ngo_on.wait(60)\ndone = True\n")
    begun, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr("builtins.begun", begun, raising=False)
    monkeypatch.setattr("builtins.go_on", go_on, raising=False)
    found: list[object] = []
    first = threading.Thread(target=lambda: load("slow_stub"))
    second = threading.Thread(target=lambda: found.append(load("slow_stub").done))
    first.start()
    assert begun.wait(60)
    second.start()
    second.join(0.2)
    assert second.is_alive()
    go_on.set()
    first.join()
    second.join()
    assert found == [True]
    del sys.modules["slow_stub"]
