"""Disks that are full or read-only, under every command that writes: one line, and nothing half-written."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.commands.main import main
from tests.artifacts import make_artifact, some_contexts
from tests.texts import ENCODER, TEXT
from tests.train.test_import_checkpoint import checkpoint

resource = pytest.importorskip("resource")

TRAIN = ("--model", "lstm", "--device", "cpu", "--set", "hidden_dim=8", "--epochs", "1", "--data", "../corpus.npz")


@dataclass(frozen=True)
class Writer:
    """A command that is run in the folder that it writes to; `keeps` are what a second run goes on from."""

    arguments: tuple[str, ...]
    keeps: tuple[str, ...] = ()
    serves: bool = False  # without its output too, as what only caches does


WRITERS = {
    "train": Writer(("train", *TRAIN, "--out", "a", "--overwrite"), keeps=("a.run",)),
    "export onnx": Writer(("export", "onnx", "--model", "a")),
    "export torchscript": Writer(("export", "torchscript", "--model", "a")),
    "export coreml": Writer(("export", "coreml", "--model", "a")),
    "import-checkpoint": Writer(("import-checkpoint", "../best.pt", "--out", "a", "--overwrite")),
    "predict .npy": Writer(("predict", "../art", "../in.npy", "o.npy"), keeps=("o.npy.part", "o.npy.progress")),
    "predict .npz": Writer(("predict", "../art", "../in.npy", "o.npz"), keeps=("o.npz.part", "o.npz.progress")),
    "predict .parquet": Writer(
        ("predict", "../art", "../in.npy", "o.parquet"), keeps=("o.parquet.part", "o.parquet.progress")
    ),
    "tune": Writer(("tune", "../art", "--backend", "onnx", "--threads", "1"), serves=True),
    "embed": Writer(
        ("embed", "../texts", "--out", "o.npz", "--encoder", ENCODER, "--device", "cpu"), keeps=("o.npz.part",)
    ),
    "compare": Writer(("compare", "../trained.run", "--out", "comparison")),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of what the commands read."""
    root = tmp_path_factory.mktemp("disks")
    vectors = np.random.default_rng(0).standard_normal((600, 16)).astype(np.float32)
    np.savez(root / "corpus.npz", vectors=vectors, doc_ids=np.repeat(np.arange(20), 30))
    np.save(root / "in.npy", some_contexts(4000))
    make_artifact(root / "art", "gru")
    make_artifact(root / "old", "lstm")
    checkpoint(root / "best.pt", "lstm")
    (root / "texts").mkdir()
    (root / "texts/a.txt").write_text(TEXT)
    assert main(["train", *TRAIN[:-1], str(root / "corpus.npz"), "--out", str(root / "trained")]) == 0
    return root


def _files(folder: Path) -> dict[str, bytes]:
    """Return what is in the files below a folder, but for locks."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def _run(writer: Writer, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run the command in `folder`; False, after checks of what it says and leaves, if it could not write."""
    before = _files(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LVM_CACHE", str(folder / "cache"))
    capfd.readouterr()
    status = main(writer.arguments)
    out, err = capfd.readouterr()
    if status == 0:
        assert writer.serves or _files(folder) != before
        return not (writer.serves and "cache folder cannot be written" in err)
    assert status == 1, err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, err
    assert "Traceback" not in out + err
    assert err.splitlines()[-1] == errors[0], err
    after = {name: data for name, data in _files(folder).items() if not name.startswith(writer.keeps or ("\0",))}
    if writer.arguments[0] in (
        "export",
        "train",
    ):  # forms that were made before stay, and weights without their figures
        Artifact.load(folder / "a")
    else:
        assert after == before
    return False


def _refill(folder: Path, inputs: Path) -> None:
    """Make `folder` hold the old artifact and nothing else."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(inputs / "old", folder / "a")


@contextlib.contextmanager
def _largest_file(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes: writing fails half-way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    signals = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, signals)


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in ("embed", "export coreml")])
def test_a_file_that_cannot_grow_is_one_line(
    name: str, inputs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    work = inputs / "work"
    work.mkdir(exist_ok=True)
    _refill(work, inputs)
    with _largest_file(300):
        assert not _run(WRITERS[name], work, capfd, monkeypatch)
    assert _run(WRITERS[name], work, capfd, monkeypatch)


def _mounted(folder: Path, *how: str) -> Callable[[], object]:
    """Mount as `how` says, and return how to undo it; skip the test where that is not allowed."""
    done = subprocess.run(["mount", *how, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    return lambda: subprocess.run(["umount", "--lazy", str(folder)], check=True)


needs_mounts = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("mount"), reason="needs root on Linux to mount"
)


@needs_mounts
@pytest.mark.parametrize("name", [name for name in WRITERS if name not in ("embed", "export coreml")])
def test_a_read_only_folder_is_one_line(
    name: str, inputs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    _read_only(WRITERS[name], inputs, monkeypatch, capfd)


@pytest.mark.soak
@needs_mounts
@pytest.mark.parametrize("name", ["embed", "export coreml"])
def test_a_read_only_folder_is_one_line_for_slow_commands(
    name: str, inputs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    _read_only(WRITERS[name], inputs, monkeypatch, capfd)


def _read_only(
    writer: Writer, inputs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    work = inputs / "read-only"
    work.mkdir(exist_ok=True)
    undo = _mounted(work, "--bind", str(work))
    try:
        _refill(work, inputs)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(work)], check=True)
        assert not _run(writer, work, capfd, monkeypatch)
    finally:
        monkeypatch.chdir(inputs)
        undo()


@pytest.mark.soak
@needs_mounts
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_fills_at_any_point_is_one_line(
    name: str, inputs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    work = inputs / "full"
    work.mkdir(exist_ok=True)
    undo, failed = _mounted(work, "-t", "tmpfs", "-o", "size=8m", "tmpfs"), 0
    try:
        for pages in (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024):
            monkeypatch.chdir(inputs)
            _refill(work, inputs)
            _leave(work, pages * 4096)
            if _run(WRITERS[name], work, capfd, monkeypatch):
                break
            failed += 1
        else:
            raise AssertionError("it never had room enough")
    finally:
        monkeypatch.chdir(inputs)
        undo()
    with capfd.disabled():
        print(f"{name}: {failed} full disks, and then {pages * 4096:,} bytes were enough")
    assert failed


def _leave(folder: Path, room: int) -> None:
    """Fill the disk that `folder` is on, but for so many bytes."""
    with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    status = os.statvfs(folder)
    os.truncate(folder / "filler", (folder / "filler").stat().st_size - room + status.f_bavail * status.f_frsize)
