"""A power cut, which no kill can imitate: what is in its place was flushed first, and what names it comes after it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lvm_runtime import LvmError, Predictor
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.bulk import output as bulk_output
from lvm_runtime.bulk.destination import Destination
from lvm_runtime.bulk.output import Output
from lvm_runtime.bulk.parts import plan, write_part
from lvm_runtime.system import atomic
from tests.artifacts import make_artifact, some_contexts
from tests.flushes import Flushes

Get = Callable[[str], Path]


@pytest.fixture
def flushes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Flushes:
    return Flushes(monkeypatch, tmp_path)


def note(monkeypatch: pytest.MonkeyPatch, calls: list[str], owner: Any, name: str, what: str) -> None:
    """Enter each call of a function into `calls` as `what`."""
    call = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *a: (calls.append(what), call(*a))[1])


def test_replaced_file_is_flushed_before_and_its_folder_after(flushes: Flushes, tmp_path: Path) -> None:
    for content in (b"old", b"new"):
        atomic.write_bytes(tmp_path / "file", content)
    flushes.assert_settled("file", "file")


@pytest.mark.parametrize("exchanging", [True, False])
def test_replaced_folder_is_flushed_with_all_that_is_in_it(
    exchanging: bool, flushes: Flushes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not exchanging:
        monkeypatch.setattr(atomic, "exchange", lambda *_: False)
    for content in ("old", "new"):
        with atomic.replacing(tmp_path / "folder") as temporary:
            (temporary / "inner").mkdir(parents=True)
            (temporary / "inner/file").write_text(content)
    flushes.assert_settled("folder", "folder")


def test_files_that_belong_together_are_flushed_before_the_first_takes_its_place(
    flushes: Flushes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    atomic.write_files(tmp_path, {"a": b"old", "b": b"old"})
    flushes.assert_settled("a", "b")
    calls: list[str] = []
    note(monkeypatch, calls, os, "fsync", "flush")
    note(monkeypatch, calls, os, "replace", "replace")
    atomic.write_files(tmp_path, {"a": b"new", "b": b"new"})
    assert calls.index("replace") >= 2
    assert calls[-3:] == ["replace", "replace", "flush"]


def test_committed_form_is_on_the_disk_before_the_manifest_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = make_artifact(tmp_path / "amn", onnx=False)
    flushes = Flushes(monkeypatch, tmp_path)
    for _ in range(2):  # a new form, and another one in its place
        with artifact.adding("coreml/p.mlpackage") as temporary:
            (temporary / "Data").mkdir(parents=True)
            (temporary / "Data/weights").write_bytes(b"weights")
            artifact = artifact.commit(
                temporary, "coreml/p.mlpackage", format="coreml", precision="fp16", drift=1e-5, batch_sizes=(1,)
            )
    flushes.assert_settled("p.mlpackage", "manifest.json", "manifest.json", "p.mlpackage", "manifest.json")
    Artifact.load(artifact.path)


def test_block_is_in_the_journal_only_when_it_is_on_the_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[str] = []

    output = Output(Destination(tmp_path / "out.npy"), 8, 4, 4, {"run": 1}, np.arange)
    note(monkeypatch, calls, bulk_output, "write_at", "data")
    note(monkeypatch, calls, os, "fsync", "flush")
    monkeypatch.setattr(output._journal, "write", lambda line: calls.append(f"{line.count('block')} blocks"))
    for number in range(2):
        output.write(number, np.zeros((4, 4), np.float32), {})
    output.close()
    assert calls == ["data", "data", "flush", "2 blocks"]


@pytest.mark.parametrize("name", ["out.npy", "out.npz", "out.parquet"])
def test_finished_output_is_on_the_disk_before_the_journal_goes(name: str, flushes: Flushes, tmp_path: Path) -> None:
    output = Output(Destination(tmp_path / name), 4, 4, 4, {"run": 1}, np.arange)
    output.write(0, np.zeros((4, 4), np.float32), {2: "bad"})
    output.finish()
    flushes.assert_settled(f"{name}.progress", f"{name}.bad.csv", name)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, f"{name}.bad.csv"]


@pytest.mark.parametrize("name", ["out.npy", "out.npz", "out.parquet"])
def test_output_that_cannot_take_its_place_is_kept_for_a_second_run(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    output = Output(Destination(tmp_path / name), 4, 4, 4, {"run": 1}, np.arange)
    output.write(0, np.zeros((4, 4), np.float32), {})

    def fail(*paths: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(LvmError, match="No space left"):
        output.finish()
    again = Output(Destination(tmp_path / name), 4, 4, 4, {"run": 1}, np.arange)
    again.close()
    assert again.blocks() == []


def test_part_of_a_bulk_run_is_on_the_disk(small_artifacts: Get, flushes: Flushes, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", some_contexts(6))
    (part,) = plan([tmp_path / "in.npy"])
    with Predictor(small_artifacts("amn"), threads=1) as predictor:
        write_part(predictor, part, tmp_path, skip_bad=False)
    flushes.assert_settled(part.name)
