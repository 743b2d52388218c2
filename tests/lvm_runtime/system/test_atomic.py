"""Atomic replacement: the old one or the new one, whatever happens in between."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lvm_runtime.errors import WriteFailed
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


def test_a_link_to_nothing_is_told_before_the_work(tmp_path: Path) -> None:
    """A folder cannot take its place: a training run would end without its artifact."""
    (tmp_path / "latest").symlink_to("absent")
    with pytest.raises(WriteFailed, match="a link to nothing is there"):
        atomic.require_writable(tmp_path / "latest", folder=True)


def test_a_folder_is_replaced_where_a_link_leads(tmp_path: Path) -> None:
    """The link stays: others may lead to the same folder."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "v1").mkdir()
    (tmp_path / "latest").symlink_to(tmp_path / "disk" / "v1")
    atomic.require_writable(tmp_path / "latest", folder=True)
    with atomic.replacing(tmp_path / "latest") as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
    assert (tmp_path / "latest").is_symlink()
    assert [path.name for path in (tmp_path / "disk" / "v1").iterdir()] == ["new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "latest"]


def test_files_that_belong_together_are_all_old_or_all_new(tmp_path: Path) -> None:
    names = {"a": b"old", "b": b"old"}
    atomic.write_files(tmp_path / "sub", names)
    with pytest.raises(WriteFailed, match="name too long"):
        atomic.write_files(tmp_path / "sub", {"a": b"new", "n" * 300: b"new"})
    assert {path.name: path.read_bytes() for path in (tmp_path / "sub").iterdir()} == names


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="permissions and kills as on POSIX")
def test_what_killed_runs_left_is_removed_by_the_next_and_nothing_in_use(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as killed,
        subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as alive,
    ):
        assert killed.stdout is not None
        assert alive.stdout is not None
        assert alive.stdin is not None
        left, used = (Path(process.stdout.readline().decode().strip()) for process in (killed, alive))
        killed.kill()
        killed.wait()
        (tmp_path / ".tmp-of-somebody-else").mkdir()
        assert left.is_dir()
        subprocess.run([sys.executable, "-c", NEXT, str(tmp_path / "file")], check=True)
        assert sorted(tmp_path.iterdir()) == sorted([used, tmp_path / ".tmp-of-somebody-else", tmp_path / "file"])
        alive.stdin.close()
    assert not used.exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="users and sticky folders as on POSIX")
@pytest.mark.parametrize("mine", [True, False], ids=["mine", "another user's"])
def test_in_a_folder_of_everybody_only_own_folders_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mine: bool
) -> None:
    tmp_path.chmod(0o1777)
    left = tmp_path / ".tmp-left"
    left.mkdir()
    (left / ".in-use").touch()
    if not mine:
        monkeypatch.setattr(os, "geteuid", lambda: left.stat().st_uid + 1)
    with atomic.scratch(tmp_path):
        assert left.exists() != mine


def test_a_kill_while_a_temporary_folder_is_removed_leaves_its_lock_to_the_next(tmp_path: Path) -> None:
    with atomic.scratch(tmp_path) as holder:
        for name in ("a", "b"):
            (holder / name).mkdir()
        lock = holder / ".in-use"
        seen = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(atomic, "remove", lambda path: seen.append((path.name, lock.exists())) or shutil.rmtree(path))
            atomic._empty(holder)
    assert sorted(seen) == [("a", True), ("b", True)]
    assert list(tmp_path.iterdir()) == []


HOLDER = """
import sys
from pathlib import Path
from lvm_runtime.system import atomic
with atomic.scratch(Path(sys.argv[1])) as holder:
    (holder / "half").write_text("half")
    print(holder, flush=True)
    sys.stdin.read()
"""
NEXT = "import sys, pathlib; from lvm_runtime.system import atomic; atomic.write_bytes(pathlib.Path(sys.argv[1]), b'x')"


BAD_PLACES = {
    "below a file": "file/out",
    "a folder": "folder",
    "name too long": "n" * 300,
    "NUL": "a\0b",
    "no such device": "/proc/none/out",
}


@pytest.mark.skipif(sys.platform != "linux", reason="the names are Linux's")
@pytest.mark.parametrize("place", BAD_PLACES.values(), ids=BAD_PLACES.keys())
def test_a_bad_place_is_a_documented_error_before_and_while_writing(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    for write in (atomic.require_writable, lambda path: atomic.write_bytes(path, b"new")):
        with pytest.raises(WriteFailed, match=r"cannot be written \(|cannot hold a NUL"):
            write(tmp_path / place)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    atomic.write_bytes(tmp_path / "file", b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(WriteFailed, match=r"file: cannot be written \(File too large\)"):
            atomic.write_bytes(tmp_path / "file", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="permissions as on POSIX")
@pytest.mark.parametrize(("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)], ids=oct)
def test_private_files_follow_the_umask(tmp_path: Path, umask: int, file: int, folder: int) -> None:
    package = tmp_path / "model.mlpackage"
    (package / "Data").mkdir(parents=True)
    (package / "Data" / "weights").touch(0o600)
    (package / "Data").chmod(0o700)
    before = os.umask(umask)
    try:
        package.chmod(0o700)
        atomic.share_tree(package)
    finally:
        os.umask(before)
    modes = [path.stat().st_mode & 0o777 for path in (package, package / "Data", package / "Data" / "weights")]
    assert modes == [folder, folder, file]


def _hold(folder: Path, log: Path) -> None:
    with atomic.locked(folder / "locked"):
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


def test_a_writer_killed_between_two_renames_leaves_the_new_folder_to_the_next(tmp_path: Path) -> None:
    holder = tmp_path / ".tmp-killed"
    for folder, content in ((holder / ".replaced", "old"), (holder / "artifact", "new")):
        folder.mkdir(parents=True)
        (folder / "file").write_text(content)
    (holder / ".in-use").touch()
    atomic.write_bytes(tmp_path / "another", b"")
    assert (tmp_path / "artifact" / "file").read_text() == "new"
    assert not holder.exists()
