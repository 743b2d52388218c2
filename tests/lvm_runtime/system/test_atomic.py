"""Atomic replacement: the old one or the new one, whatever happens in between."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lvm_runtime.system import atomic


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "file"
    atomic.write_bytes(path, b"old")
    atomic.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with atomic.replacing(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt], ids=["failure", "ctrl-c"])
def test_a_failing_writer_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    atomic.write_bytes(tmp_path / "file", b"old")

    def write() -> None:
        with atomic.replacing(tmp_path / "file") as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


WRITER = """
import sys
from pathlib import Path
from lvm_runtime.system import atomic
for n in range(10**9):
    atomic.write_bytes(Path(sys.argv[1]), bytes([n % 251]) * 200_000)
    if n == 0:
        print("started", flush=True)
"""


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for delay in (0.0, 0.013, 0.027):
        command = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(delay)
            writer.send_signal(signal.SIGKILL)
        data = path.read_bytes()
        assert len(data) == 200_000
        assert len(set(data)) == 1


def _hold(folder: Path, log: Path) -> None:
    with atomic.locked(folder):
        for word in ("in\n", "out\n"):
            with log.open("a") as file:
                file.write(word)
            time.sleep(0.02)


def test_a_lock_makes_processes_take_turns(tmp_path: Path) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork" if sys.platform == "linux" and not _threads() else "spawn")
    workers = [context.Process(target=_hold, args=(tmp_path, log)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert log.read_text() == "in\nout\n" * 3


def _threads() -> bool:
    return len(os.listdir("/proc/self/task")) > 1
