"""Outputs that a bulk run refuses, before anything is opened for writing, or that change under its hands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lvm_runtime import InvalidInput, LvmError, Predictor
from lvm_runtime.bulk import output as bulk_output
from lvm_runtime.bulk import predict as bulk
from lvm_runtime.bulk.destination import Destination
from lvm_runtime.bulk.predict import predict_file
from tests.artifacts import some_contexts

BESIDE = ["", ".part", ".progress", ".bad.csv", ".lock"]
CONTEXTS = some_contexts(200)


@pytest.fixture
def predictor(small_artifacts: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Predictor]:
    monkeypatch.setattr(bulk, "BLOCK", 32)
    with Predictor(small_artifacts("amn")) as built:
        yield built


@pytest.fixture
def source(tmp_path: Path) -> Path:
    np.save(tmp_path / "in.npy", CONTEXTS)
    return tmp_path / "in.npy"


def _interrupted(
    predictor: Predictor, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, then: Callable[[], object]
) -> None:
    """Predict three blocks of seven, call `then`, and go on with the rest."""
    predict, count = bulk.predict_block, iter(range(3))

    def few(*arguments: Any) -> Any:
        if next(count, None) is None:
            then()
        return predict(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(bulk, "predict_block", few)
        patch.setattr(bulk, "workers_for", lambda _: 1)
        predict_file(predictor, source, out, progress=False)


def _stop() -> None:
    raise KeyboardInterrupt


def _assert_right(predictor: Predictor, out: Path) -> None:
    np.testing.assert_allclose(np.load(out), predictor.predict(CONTEXTS), rtol=0, atol=1e-6)


def _snapshot(folder: Path) -> dict[str, Any]:
    return {path.name: path.read_bytes() if path.is_file() else path.lstat().st_mode for path in folder.iterdir()}


MAKE: dict[str, tuple[Callable[[Path], object], str]] = {
    "link": (lambda path: path.symlink_to(path.with_name("precious.npy")), "is a link, expected a file or nothing"),
    "dangling link": (lambda path: path.symlink_to("nowhere"), "is a link, expected a file or nothing"),
    "pipe": (os.mkfifo, "is a pipe, expected a file or nothing"),
    "folder": (Path.mkdir, "is a folder, expected a file or nothing"),
    "input": (lambda path: os.link(path.with_name("in.npy"), path), "is also the input"),
}


@pytest.mark.parametrize("suffix", BESIDE, ids=["output", *BESIDE[1:]])
@pytest.mark.parametrize(("make", "message"), MAKE.values(), ids=MAKE.keys())
def test_only_a_plain_file_of_its_own_is_written(
    predictor: Predictor, source: Path, tmp_path: Path, suffix: str, make: Callable[[Path], object], message: str
) -> None:
    (tmp_path / "precious.npy").write_text("thesis")
    make(tmp_path / f"out.npy{suffix}")
    before = _snapshot(tmp_path)
    for how in ({"overwrite": True}, {"overwrite": True, "restart": True}):
        with pytest.raises(InvalidInput, match=message):
            predict_file(predictor, source, tmp_path / "out.npy", **how)  # type: ignore[arg-type]
    assert _snapshot(tmp_path) == before


def test_what_is_no_predictor_or_name_is_refused(predictor: Predictor) -> None:
    for arguments, said in (
        ((3, "a.npy", "b.npy"), "predictor is 3, expected a Predictor"),
        ((predictor, 3, "b.npy"), "source is 3, no name of a file"),
        ((predictor, "a.npy", 3), "target is 3, no name of a file"),
    ):
        with pytest.raises(InvalidInput, match=f"^{said}"):
            predict_file(*arguments)  # type: ignore[arg-type]


def test_a_number_that_float32_cannot_hold_is_set_aside(predictor: Predictor, tmp_path: Path) -> None:
    contexts = CONTEXTS.astype(np.float64)
    contexts[7, 3, 2] = 1e300
    np.save(tmp_path / "in.npy", contexts)
    assert predict_file(predictor, tmp_path / "in.npy", tmp_path / "out.npy", skip_bad=True).bad == 1
    assert "row 7, position 3, component 2 is 1e+300, too large" in (tmp_path / "out.npy.bad.csv").read_text()


def test_good_contexts_run_once(
    predictor: Predictor, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "predict_good", None)  # which runs a block again, without its bad rows
    predict_file(predictor, source, tmp_path / "out.npy")
    _assert_right(predictor, tmp_path / "out.npy")


def test_a_device_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = os.lstat("/dev/null")  # making one takes root
    monkeypatch.setattr("lvm_runtime.bulk.destination._status", lambda path: device)
    with pytest.raises(InvalidInput, match=r"out\.npy: is a device, expected a file or nothing"):
        Destination(tmp_path / "out.npy").check([], overwrite=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("in.npy", "is also the input"),
        ("in.ids.npy", "is also the input"),
        (".", "unknown kind of file ''"),
        ("/dev/null", "unknown kind of file ''"),
        ("x" * 300 + ".npy", "cannot be written"),
        ("x" * 248 + ".npy", "cannot be written"),  # the name fits, OUTPUT.progress does not
        ("x\0.npy", "no name of a file"),
        ("in.npy/out.npy", "cannot be written"),
    ],
    ids=["input", "ids", "folder", "device", "long", "long beside", "NUL", "in a file"],
)
def test_names_that_cannot_be_written(
    predictor: Predictor, source: Path, tmp_path: Path, name: str, message: str
) -> None:
    np.save(tmp_path / "in.npy", CONTEXTS.reshape(-1, 16))
    np.save(tmp_path / "in.ids.npy", np.zeros(1000, int))
    before = _snapshot(tmp_path)
    with pytest.raises(InvalidInput, match=message):
        predict_file(predictor, source, tmp_path / name, overwrite=True)
    assert _snapshot(tmp_path) == before


@pytest.mark.skipif(sys.platform == "darwin", reason="has no other names")
def test_parquet_files_have_names_in_utf8(predictor: Predictor, source: Path, tmp_path: Path) -> None:
    out = tmp_path / os.fsdecode(b"\xff.parquet")
    with pytest.raises(InvalidInput, match="pyarrow takes names in UTF-8 only"):
        predict_file(predictor, source, out, progress=False)
    assert list(tmp_path.iterdir()) == [source]
    out.touch()
    with pytest.raises(InvalidInput, match="pyarrow takes names in UTF-8 only"):
        predict_file(predictor, out, tmp_path / "out.npy", progress=False)


def test_a_second_writer_is_told_so(predictor: Predictor, source: Path, tmp_path: Path, monkeypatch: Any) -> None:
    out, refused, others = tmp_path / "out.npy", [], iter(range(1))

    def second() -> None:
        with pytest.raises(LvmError, match=r"out\.npy: another run is writing it") as caught:
            predict_file(predictor, source, out, restart=True, overwrite=True)
        refused.append(caught)

    def then() -> None:
        if next(others, None) is not None:
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()

    _interrupted(predictor, source, out, monkeypatch, then)
    assert refused
    _assert_right(predictor, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.npy", "out.npy"]


@pytest.mark.parametrize("name", ["fingerprint.npz", "new.npy", "new/new.npy"])
def test_nothing_is_written_into_the_artifact(predictor: Predictor, source: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "link").symlink_to(predictor.artifact.path)
    before = sorted(predictor.artifact.path.rglob("*"))
    with pytest.raises(InvalidInput, match=r"lies in the artifact .*choose another folder"):
        predict_file(predictor, source, tmp_path / "link" / name, overwrite=True, progress=False)
    assert sorted(predictor.artifact.path.rglob("*")) == before


@pytest.mark.parametrize("change", ["shortened", "replaced", "gone"])
def test_a_part_that_changes_while_it_is_written_is_an_error(
    predictor: Predictor, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    out, part = tmp_path / "out.npy", tmp_path / "out.npy.part"

    def then() -> None:
        if change == "shortened":
            os.truncate(part, 100)
        elif part.exists():
            part.rename(tmp_path / "moved")
            if change == "replaced":
                part.write_bytes((tmp_path / "moved").read_bytes())

    with pytest.raises(LvmError, match=r"out\.npy\.part: (another program changed it.*--restart|cannot be written)"):
        _interrupted(predictor, source, out, monkeypatch, then)
    assert not out.exists()
    predict_file(predictor, source, out)
    _assert_right(predictor, out)


@pytest.mark.parametrize("size", [3000, 20], ids=["rows", "header"])
def test_an_output_shortened_between_runs_is_done_again(
    predictor: Predictor, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        _interrupted(predictor, source, tmp_path / "out.npy", monkeypatch, _stop)
    os.truncate(tmp_path / "out.npy.part", size)
    assert predict_file(predictor, source, tmp_path / "out.npy").resumed == 0
    _assert_right(predictor, tmp_path / "out.npy")


@pytest.mark.parametrize("changed", ["in.npy", "in.ids.npy"])
def test_an_input_with_other_contents_but_the_same_size_and_time_is_noticed(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    source, out, path = tmp_path / "in.npy", tmp_path / "out.npy", tmp_path / changed
    np.save(source, CONTEXTS.reshape(-1, 16))
    np.save(tmp_path / "in.ids.npy", np.repeat([1, 2], 500))
    with pytest.raises(KeyboardInterrupt):
        _interrupted(predictor, source, out, monkeypatch, _stop)
    stat, data = path.stat(), path.read_bytes()
    with path.open("r+b") as file:
        file.write(data[:200] + bytes(len(data) - 200))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    with pytest.raises(InvalidInput, match=r"out\.npy\.progress belongs to a run with other input.*--restart"):
        predict_file(predictor, source, out)


def test_an_input_that_changes_during_the_run_is_an_error(
    predictor: Predictor, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LvmError, match=r"in\.npy: another program changed it during the run"):
        _interrupted(predictor, source, tmp_path / "out.npy", monkeypatch, lambda: os.utime(source))
    assert not (tmp_path / "out.npy").exists()


def test_an_input_that_is_cut_off_during_the_run_is_an_error(
    predictor: Predictor, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LvmError, match=r"in\.npy: another program changed it during the run"):
        _interrupted(predictor, source, tmp_path / "out.npy", monkeypatch, lambda: os.truncate(source, 11 * 4096))
    assert not (tmp_path / "out.npy").exists()


CUT_WHILE_IT_IS_READ = """
import os, sys
from lvm_runtime import Predictor
from lvm_runtime.bulk import predict as bulk
predict, count = bulk.predict_block, iter(range(3))
def cut(*arguments):
    if next(count, None) is None:
        os.truncate(sys.argv[2], 4096)
    return predict(*arguments)
bulk.BLOCK, bulk.predict_block, bulk.workers_for = 32, cut, lambda _: 1
with Predictor(sys.argv[1], threads=1) as predictor:
    bulk.predict_file(predictor, sys.argv[2], sys.argv[3], progress=False)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems end the process in other ways, or lock mapped files")
def test_an_input_that_is_cut_off_while_it_is_read_ends_the_process_and_leaves_no_output(
    predictor: Predictor, source: Path, tmp_path: Path
) -> None:
    whole, out = source.read_bytes(), tmp_path / "out.npy"
    command = [sys.executable, "-c", CUT_WHILE_IT_IS_READ, str(predictor.artifact.path), str(source), str(out)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGBUS
    assert not out.exists()
    with pytest.raises(InvalidInput, match=r"in\.npy: 4096 bytes, expected .*; the file is truncated"):
        predict_file(predictor, source, out)
    source.write_bytes(whole)
    with pytest.raises(InvalidInput, match=r"other input.*--restart"):
        predict_file(predictor, source, out)
    predict_file(predictor, source, out, restart=True, progress=False)
    _assert_right(predictor, out)


@pytest.mark.parametrize("target", ["out.npy", "out.npz", "out.parquet"])
@pytest.mark.parametrize("call", ["fsync", "pwrite", "replace"])
def test_a_disk_that_fails_is_one_error_and_keeps_what_is_done(
    predictor: Predictor, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, target: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(KeyboardInterrupt):
        _interrupted(predictor, source, tmp_path / target, monkeypatch, _stop)
    monkeypatch.setattr(bulk_output, "SYNC_BYTES", 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(LvmError, match=rf"{target}.*: cannot be written \(No space left on device\)"):
            predict_file(predictor, source, tmp_path / target)
    assert not (tmp_path / target).exists()
    assert predict_file(predictor, source, tmp_path / target).resumed >= 96


@pytest.mark.parametrize("left", [[], [".part"], [".progress"], [".part", ".progress"]], ids=str)
def test_what_an_interrupted_run_left_is_dropped_whatever_of_it_there_is(tmp_path: Path, left: list[str]) -> None:
    for suffix in left:
        (tmp_path / f"out.npy{suffix}").touch()
    Destination(tmp_path / "out.npy").discard()
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_dropped_is_named(tmp_path: Path) -> None:
    (tmp_path / "out.npy.part").mkdir()
    with pytest.raises(LvmError, match=r"out\.npy\.part: cannot be written"):
        Destination(tmp_path / "out.npy").discard()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that nobody can write to")
def test_a_read_only_folder_is_one_error(predictor: Predictor, source: Path) -> None:
    with pytest.raises(LvmError, match=r"out\.npy.*: cannot be written \("):
        predict_file(predictor, source, Path("/proc/new/out.npy"))
