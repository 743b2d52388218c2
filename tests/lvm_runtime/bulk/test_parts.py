"""Parts: together they are what one run on one machine writes, however they are cut and however often they are made."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from lvm_runtime import InvalidInput, LvmError, Predictor
from lvm_runtime.bulk.parts import finish, plan, prepare, sources_of, write_part
from lvm_runtime.bulk.predict import predict_file
from tests.artifacts import some_contexts
from tests.lvm_runtime.bulk.test_bulk import DOC_IDS, _save

Get = Callable[[str], Path]


@pytest.fixture
def predictor(small_artifacts: Get) -> Iterator[Predictor]:
    with Predictor(small_artifacts("amn"), threads=1) as built:
        yield built


def _corpus(folder: Path, name: str) -> Path:
    vectors = some_contexts(1, length=len(DOC_IDS))[0]
    path = folder / name
    if name == "contexts.npy":
        return _save(path, contexts=some_contexts(50))
    if path.suffix == ".npy":
        np.save(path.with_suffix(".ids.npy"), DOC_IDS)
        return _save(path, vectors=vectors)
    table = parquet.read_table(_save(path, vectors=vectors, doc_ids=DOC_IDS))
    parquet.write_table(table, path, row_group_size=17)
    return path


def _make(
    predictor: Predictor, source: Path, out: Path, rows: int, *, skip_bad: bool = False
) -> tuple[list[Any], dict[str, Any]]:
    parts = plan(sources_of(source), rows)
    prepare(out, parts, predictor.artifact.path, overwrite=False)
    results = [write_part(predictor, part, out, skip_bad=skip_bad) for part in reversed(parts)]
    return results, finish(out, parts, results)


def _read(out: Path, manifest: dict[str, Any]) -> tuple[Any, Any]:
    tables = [parquet.read_table(out / part["file"]) for part in manifest["parts"]]
    values = [np.stack(table["prediction"].to_numpy()) for table in tables if table.num_rows]
    return np.concatenate([table["row"].to_numpy() for table in tables]), np.concatenate(values)


@pytest.mark.parametrize("rows", [3, 50, 1000])
@pytest.mark.parametrize("name", ["vectors.npy", "contexts.npy", "vectors.parquet"])
def test_parts_together_are_the_whole(predictor: Predictor, tmp_path: Path, name: str, rows: int) -> None:
    source = _corpus(tmp_path, name)
    predict_file(predictor, source, tmp_path / "whole.npz", progress=False)
    whole = np.load(tmp_path / "whole.npz")
    _, manifest = _make(predictor, source, tmp_path / "out", rows)
    found_rows, found = _read(tmp_path / "out", manifest)
    np.testing.assert_array_equal(found_rows, whole["rows"])
    np.testing.assert_array_equal(found, whole["predictions"])
    assert manifest["predictions"] == len(found)
    assert json.loads((tmp_path / "out/manifest.json").read_text()) == manifest


def test_sources_of_a_folder_are_its_corpora_and_not_their_document_numbers(tmp_path: Path) -> None:
    expected = [_corpus(tmp_path, name) for name in ("contexts.npy", "vectors.npy", "vectors.parquet")]
    (tmp_path / "notes.txt").touch()
    assert (tmp_path / "vectors.ids.npy").exists()
    assert sources_of(tmp_path) == expected


def test_a_second_run_makes_what_is_missing_or_of_other_files(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    source, out = _corpus(tmp_path / "in", "vectors.parquet"), tmp_path / "out"
    _corpus(tmp_path / "in", "contexts.npy")
    first, manifest = _make(predictor, tmp_path / "in", out, 40)
    assert len(first) == 2 + 3
    (out / "manifest.json").unlink()
    (out / first[0].part.name).unlink()
    (out / first[1].part.name).write_bytes(b"damaged")
    (out / ".killed.tmp").touch()
    second, again = _make(predictor, tmp_path / "in", out, 40)
    assert [result.resumed for result in second] == [False, False, True, True, True]
    assert again == manifest
    assert not list(out.glob(".*"))
    (out / "manifest.json").unlink()
    os.utime(source, ns=(0, 0))
    assert sum(result.resumed for result in _make(predictor, tmp_path / "in", out, 40)[0]) == 2


def test_other_ids_beside_the_same_vectors_are_other_parts(predictor: Predictor, tmp_path: Path) -> None:
    source, out = _corpus(tmp_path, "vectors.npy"), tmp_path / "out"
    before = _make(predictor, source, out, 50)[1]["predictions"]
    (out / "manifest.json").unlink()
    np.save(tmp_path / "vectors.ids.npy", np.zeros_like(DOC_IDS))
    again, manifest = _make(predictor, source, out, 50)
    assert not any(result.resumed for result in again)
    assert manifest["predictions"] == len(DOC_IDS) - 4 > before


def test_bad_rows_are_set_aside_with_their_numbers(predictor: Predictor, tmp_path: Path) -> None:
    vectors = some_contexts(1, length=60)[0]
    vectors[[3, 31]] = np.nan
    source = _save(tmp_path / "vectors.npy", vectors=vectors)
    with pytest.raises(InvalidInput, match="row 31, component 0 is nan"):
        write_part(predictor, plan([source], 20)[1], tmp_path, skip_bad=False)
    assert not list(tmp_path.glob("*.parquet"))
    _, manifest = _make(predictor, source, tmp_path / "out", 20, skip_bad=True)
    rows, found = _read(tmp_path / "out", manifest)
    bad = [row for row in rows if 3 <= row < 8 or 31 <= row < 36]
    np.testing.assert_array_equal(rows[np.isnan(found).any(axis=1)], bad)
    listed = list(csv.reader((tmp_path / "out/bad.csv").read_text().splitlines()))[1:]
    assert [int(row) for _, row, _ in listed] == bad
    assert (manifest["bad"], [part["bad"] for part in manifest["parts"]]) == (9, [4, 5, 0])
    with pytest.raises(InvalidInput, match="row 31, component 0 is nan"):  # nobody said that bad ones may be left
        write_part(predictor, plan([source], 20)[1], tmp_path / "out", skip_bad=False)


def test_what_does_not_fit_together_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    source, out = _corpus(tmp_path, "vectors.npy"), tmp_path / "out"
    results, _ = _make(predictor, source, out, 50)
    parts = plan([source], 50)
    with pytest.raises(LvmError, match="1 part is missing"):
        finish(out, parts, results[1:])
    with pytest.raises(LvmError, match=r"row 50 is in no part or in two.*run it again"):
        finish(out, [parts[0], parts[0]], results)
    with pytest.raises(LvmError, match="end at row 100 of 108"):
        finish(out, parts[:2], results)
    with pytest.raises(InvalidInput, match="of another run"):
        prepare(out, plan([source], 20), predictor.artifact.path, overwrite=False)
    prepare(out, parts, predictor.artifact.path, overwrite=True)
    assert not list(out.iterdir())
    os.utime(source, ns=(0, 0))
    with pytest.raises(LvmError, match="changed it during the run"):
        write_part(predictor, parts[0], out, skip_bad=False)
    with pytest.raises(InvalidInput, match="holds no file"):
        sources_of(out)


@pytest.mark.parametrize("name", [".", "parts"])
def test_parts_are_not_written_into_the_artifact(predictor: Predictor, tmp_path: Path, name: str) -> None:
    """Its manifest has the name of theirs, so that `overwrite` would delete it."""
    folder, parts = predictor.artifact.path, plan([_corpus(tmp_path, "contexts.npy")], 20)
    before = sorted(folder.rglob("*"))
    with pytest.raises(InvalidInput, match=r"lies in the artifact .*choose another folder"):
        prepare(folder / name, parts, folder, overwrite=True)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("linked", ["", "folder", "file"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_parts_are_not_written_beside_their_inputs(
    predictor: Predictor, tmp_path: Path, linked: str, overwrite: bool
) -> None:
    """`overwrite` would delete what is in Parquet there, and a second run would take parts for inputs."""
    folder = out = tmp_path / "corpora"
    folder.mkdir()
    source = _corpus(folder, "vectors.parquet")
    if linked == "folder":
        out = tmp_path / "link"
        out.symlink_to(folder)
    elif linked == "file":
        source = tmp_path / "link.parquet"
        source.symlink_to(folder / "vectors.parquet")
    with pytest.raises(InvalidInput, match=r"the input .*parquet lies there; choose another folder"):
        prepare(out, plan([source], 20), predictor.artifact.path, overwrite=overwrite)
    assert [path.name for path in folder.iterdir()] == ["vectors.parquet"]


@pytest.mark.parametrize("how", ["overwrite", "restart"])
@pytest.mark.parametrize("name", ["theirs.parquet", "manifest.json", "bad.csv"])
def test_what_no_run_wrote_is_not_removed(predictor: Predictor, tmp_path: Path, name: str, how: str) -> None:
    parts, out = plan([_corpus(tmp_path, "contexts.npy")], 20), tmp_path / "out"
    out.mkdir()
    (out / name).write_text('{"theirs": 1}')
    message = "of another run" if (how, name) == ("restart", "manifest.json") else "which no run wrote; choose another"
    with pytest.raises(InvalidInput, match=rf"holds {name}.* {message}"):
        prepare(out, parts, predictor.artifact.path, **{how: True})
    assert (out / name).read_text() == '{"theirs": 1}'


def test_restart_drops_an_unfinished_run_and_overwrite_a_finished_one_too(predictor: Predictor, tmp_path: Path) -> None:
    rows = np.array(some_contexts(50), np.float32)
    rows[3, 0, 0] = np.nan
    source, out, artifact = _save(tmp_path / "in.npy", contexts=rows), tmp_path / "out", predictor.artifact.path
    _, manifest = _make(predictor, source, out, 20, skip_bad=True)
    assert manifest["bad"] == 1
    with pytest.raises(InvalidInput, match=r"holds (bad\.csv|manifest\.json) of another run.*--overwrite"):
        prepare(out, plan([source], 20), artifact, restart=True)
    assert len(list(out.iterdir())) == 5
    (out / "manifest.json").unlink()
    prepare(out, plan([source], 10), artifact, restart=True)
    assert not list(out.iterdir())
    _make(predictor, source, out, 20, skip_bad=True)
    prepare(out, plan([source], 10), artifact, overwrite=True)
    assert not list(out.iterdir())
