"""`lvm-runtime predict`: every kind of file, flat memory, and the same output however often it is killed."""

from __future__ import annotations

import contextlib
import csv
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from lvm_runtime import InvalidInput, LvmError, Predictor
from lvm_runtime.bulk import predict as bulk
from lvm_runtime.bulk.predict import BulkResult, look_first, open_for_bulk, predict_file, workers_for
from lvm_runtime.corpus.documents import window_starts
from lvm_runtime.request import Request
from tests.artifacts import some_contexts

Get = Callable[[str], Path]
DOC_IDS = np.repeat([7, 3, 9, 4], [40, 3, 5, 60])


@pytest.fixture
def predictor(small_artifacts: Get) -> Iterator[Predictor]:
    with Predictor(small_artifacts("amn")) as built:
        yield built


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "BLOCK", 32)


def _vectors() -> Any:
    return some_contexts(1, length=len(DOC_IDS))[0]


def _save(path: Path, **arrays: Any) -> Path:
    if path.suffix == ".npy":
        np.save(path, next(iter(arrays.values())))
    elif path.suffix == ".npz":
        np.savez_compressed(path, **arrays)
    else:
        columns = {}
        for name, values in arrays.items():
            flat = values.reshape(len(values), -1)
            listed = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(flat.reshape(-1)), flat.shape[1])
            columns[name] = pyarrow.array(values) if values.ndim == 1 else listed
        parquet.write_table(pyarrow.table(columns), path)
    return path


def _load(path: Path) -> tuple[Any, Any]:
    if path.suffix == ".npy":
        return np.load(path), None
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return arrays["predictions"], arrays["rows"]
    table = parquet.read_table(path)
    flat = table.column("prediction").combine_chunks().flatten().to_numpy()
    return flat.reshape(table.num_rows, -1), table.column("row").to_numpy()


@pytest.mark.parametrize("source", [".npy", ".npz", ".parquet"])
@pytest.mark.parametrize("target", [".npy", ".npz", ".parquet"])
def test_contexts_of_every_kind_of_file(predictor: Predictor, tmp_path: Path, source: str, target: str) -> None:
    contexts = some_contexts(100)
    path = _save(tmp_path / f"in{source}", contexts=contexts)
    result = predict_file(predictor, path, tmp_path / f"out{target}")
    found, rows = _load(tmp_path / f"out{target}")
    np.testing.assert_allclose(found, predictor.predict(contexts), rtol=0, atol=1e-6)
    assert rows is None or rows.tolist() == list(range(100))
    assert result == BulkResult(100, 0, 0, ())
    assert {p.name for p in tmp_path.iterdir()} == {f"in{source}", f"out{target}"}


@pytest.mark.parametrize("source", [".npz", ".parquet"])
@pytest.mark.parametrize("dtype", [np.float16, np.float64], ids=["float16", "float64"])
def test_windows_of_a_corpus_stay_within_documents(
    predictor: Predictor, tmp_path: Path, source: str, dtype: Any
) -> None:
    vectors = _vectors().astype(dtype)
    path = _save(tmp_path / f"in{source}", vectors=vectors, doc_ids=DOC_IDS)
    predict_file(predictor, path, tmp_path / "out.npz")
    found, rows = _load(tmp_path / "out.npz")
    ends = [i for i in range(4, len(DOC_IDS)) if DOC_IDS[i] == DOC_IDS[i - 4]]
    assert rows.tolist() == ends
    windows = np.stack([vectors[i - 4 : i + 1] for i in ends])
    np.testing.assert_allclose(found, predictor.predict(windows), rtol=0, atol=2e-6)


def test_a_plain_array_of_vectors_is_one_document(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Predictor, "predict", None)  # which takes windows, and more time
    predict_file(predictor, _save(tmp_path / "in.npy", vectors=_vectors()), tmp_path / "out.npy")
    expected = predictor.predict_sequence(_vectors())
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("count", "expected"), [(0, []), (4, []), (5, [0]), (7, [0, 1, 2])])
def test_windows_of_one_document(count: int, expected: list[int]) -> None:
    assert window_starts(count, None, 5).tolist() == expected


@pytest.mark.parametrize("shape", [(0, 5, 16), (0, 16), (3, 16)], ids=str)
def test_nothing_to_predict_is_an_empty_file(predictor: Predictor, tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = _save(tmp_path / "in.npy", vectors=np.zeros(shape, np.float32))
    assert predict_file(predictor, path, tmp_path / "out.npy").predictions == 0
    assert np.load(tmp_path / "out.npy").shape == (0, 16)


@pytest.mark.parametrize(("value", "said"), [(np.nan, "is nan"), (1e20, "norm")], ids=["nan", "too long"])
@pytest.mark.parametrize("kind", ["contexts", "vectors"])
def test_bad_rows_are_set_aside_when_asked(
    predictor: Predictor, tmp_path: Path, kind: str, value: float, said: str
) -> None:
    values = some_contexts(100) if kind == "contexts" else _vectors()
    clean = predictor.predict(values) if kind == "contexts" else predictor.predict_sequence(values)
    values[50, ..., 3] = value
    path, out = _save(tmp_path / "in.npy", values=values), tmp_path / "out.npy"
    with pytest.raises(InvalidInput, match=rf"in\.npy: row 50.*{said}.*--skip-bad"):
        predict_file(predictor, path, out)
    assert not out.exists()
    result = predict_file(predictor, path, out, skip_bad=True)
    assert result.resumed >= 32  # what came before the bad row was kept
    bad = [50] if kind == "contexts" else [46, 47, 48, 49, 50]
    found = np.load(out)
    assert np.flatnonzero(np.isnan(found).any(axis=1)).tolist() == bad
    np.testing.assert_allclose(np.delete(found, bad, 0), np.delete(clean, bad, 0), rtol=0, atol=2e-6)
    with (tmp_path / "out.npy.bad.csv").open() as file:
        listed = list(csv.DictReader(file))
    assert [int(line["prediction"]) for line in listed] == bad
    assert all("row 50" in line["reason"] for line in listed)
    values[50, ..., 3] = 0
    _save(tmp_path / "in.npy", values=values)
    predict_file(predictor, path, out, overwrite=True)
    assert not (tmp_path / "out.npy.bad.csv").exists()  # it lists rows of the output that was replaced


RUN = """
import sys, time
from lvm_runtime import Predictor
from lvm_runtime.bulk import output, predict as bulk
bulk.BLOCK, output.SYNC_BYTES = 32, 4096
if len(sys.argv) > 4:
    predict = bulk.predict_block
    def slow(*arguments):
        time.sleep(0.02)
        return predict(*arguments)
    bulk.predict_block = slow
with Predictor(sys.argv[1], backend="onnx", threads=1) as p:
    print(bulk.predict_file(p, sys.argv[2], sys.argv[3]).resumed)
"""


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_killed_and_run_again_the_output_is_the_same(small_artifacts: Get, tmp_path: Path, suffix: str) -> None:
    source = _save(tmp_path / "in.npy", contexts=some_contexts(1000))
    command = [sys.executable, "-c", RUN, str(small_artifacts("gru")), str(source)]
    once, killed = tmp_path / f"once{suffix}", tmp_path / f"killed{suffix}"
    subprocess.run([*command, str(once)], check=True, capture_output=True)
    for _ in range(2):
        _run_until_killed([*command, str(killed), "slow"], killed.with_name(killed.name + ".progress"))
        assert not killed.exists()
    done = subprocess.run([*command, str(killed)], check=True, capture_output=True, text=True)
    assert int(done.stdout) > 0
    np.testing.assert_array_equal(_load(killed)[0], _load(once)[0])
    if suffix == ".npy":
        assert killed.read_bytes() == once.read_bytes()


def _run_until_killed(command: list[str], journal: Path) -> None:
    before = journal.stat().st_size if journal.exists() else 0
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 60
        while not (journal.exists() and journal.stat().st_size > before + 200) and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)


def _interrupted(
    predictor: Predictor, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> None:
    """Leave a run of which the first three blocks are done, whichever thread is the faster one."""
    predict = bulk.predict_block

    def few(predictor: Predictor, block: bulk.Block) -> Any:
        if block.first >= 3 * bulk.BLOCK:
            raise KeyboardInterrupt
        return predict(predictor, block)

    with monkeypatch.context() as patch:
        patch.setattr(bulk, "predict_block", few)
        with pytest.raises(KeyboardInterrupt):
            predict_file(predictor, source, out, **options)


@pytest.mark.parametrize("torn", [True, False], ids=["torn line", "whole"])
def test_a_torn_line_is_done_again(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: bool
) -> None:
    source, out = _save(tmp_path / "in.npy", contexts=some_contexts(200)), tmp_path / "out.npy"
    _interrupted(predictor, source, out, monkeypatch)
    journal = tmp_path / "out.npy.progress"
    if torn:
        journal.write_text(journal.read_text()[:-5])
    assert predict_file(predictor, source, out).resumed == (64 if torn else 96)
    np.testing.assert_allclose(np.load(out), predictor.predict(some_contexts(200)), rtol=0, atol=1e-6)


def test_the_bar_goes_on_where_an_interrupted_run_ended_or_is_left_out(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[dict[str, Any]] = []

    class Bar(contextlib.nullcontext[Any]):
        def __init__(self, **options: Any) -> None:
            super().__init__()
            bars.append(options | {"more": 0})

        def update(self, count: int) -> None:
            bars[-1]["more"] += count

    source, out = _save(tmp_path / "in.npy", contexts=some_contexts(200)), tmp_path / "out.npy"
    _interrupted(predictor, source, out, monkeypatch)
    monkeypatch.setattr("tqdm.tqdm", Bar)
    predict_file(predictor, source, out)
    predict_file(predictor, source, out, overwrite=True, progress=False)
    shown = {"total": 200, "unit": " predictions", "unit_scale": True}
    assert bars[0] == shown | {"initial": 96, "more": 104, "disable": None}  # a bar on a terminal only
    assert bars[1] == shown | {"initial": 0, "more": 200, "disable": True}


def test_another_runs_remains_are_not_taken_up(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = _save(tmp_path / "in.npy", contexts=some_contexts(200)), tmp_path / "out.npy"
    _interrupted(predictor, source, out, monkeypatch)
    _save(source, contexts=some_contexts(200, seed=5).astype(np.float64))
    with pytest.raises(InvalidInput, match=r"out\.npy\.progress belongs to a run with other input.*--restart"):
        predict_file(predictor, source, out)
    assert predict_file(predictor, source, out, restart=True).resumed == 0


def test_a_disk_without_room_says_so_before_any_work(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    np.save(tmp_path / "in.npy", some_contexts(1000))
    with pytest.raises(LvmError, match=r"out.npy needs 0.1 MB: No space left"):
        predict_file(predictor, tmp_path / "in.npy", tmp_path / "out.npy", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["in.npy"]


def test_a_file_system_that_promises_no_room_will_do(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", unsupported, raising=False)
    contexts = some_contexts(100)
    np.save(tmp_path / "in.npy", contexts)
    predict_file(predictor, tmp_path / "in.npy", tmp_path / "out.npy", progress=False)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), predictor.predict(contexts), rtol=0, atol=1e-6)


def test_an_output_is_not_overwritten_unasked(predictor: Predictor, tmp_path: Path) -> None:
    source, out = _save(tmp_path / "in.npy", contexts=some_contexts(3)), tmp_path / "out.npy"
    out.write_text("thesis")
    with pytest.raises(InvalidInput, match="--overwrite"):
        predict_file(predictor, source, out)
    predict_file(predictor, source, out, overwrite=True)
    assert np.load(out).shape == (3, 16)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "shape": ("in.npy", {"x": np.zeros((4, 5, 15), np.float32)}, r"shape \[4, 5, 15\], expected contexts \[N, 5, 16\]"),
    "position": ("in.npy", {"x": np.zeros((4, 5, 17), np.float32)}, r"expected contexts .*a position scalar appended"),
    "dtype": ("in.npy", {"x": np.zeros((4, 5, 16), np.int32)}, "dtype int32, expected float16"),
    "order": ("in.npy", {"x": np.asfortranarray(np.zeros((4, 5, 16), np.float32))}, "Fortran order"),
    "keys": ("in.npz", {"data": np.zeros(3)}, "holds data, expected vectors"),
    "doc_ids": ("in.npz", {"vectors": np.zeros((9, 16)), "doc_ids": np.zeros(8)}, r"doc_ids have shape \[8\]"),
    "columns": ("in.parquet", {"a": np.zeros((4, 16)), "b": np.zeros((4, 16))}, "columns a, b; expected lists"),
    "list size": ("in.parquet", {"vectors": np.zeros((4, 15))}, r"shape \[4, 15\], expected contexts"),
    "kind": ("in.csv", {}, "unknown kind of file '.csv'"),
    "missing": ("absent.npy", {}, "no such file"),
}


@pytest.mark.parametrize(("name", "arrays", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_read_is_an_error(
    predictor: Predictor, tmp_path: Path, name: str, arrays: dict[str, Any], message: str
) -> None:
    if arrays:
        _save(tmp_path / name, **arrays)
    elif name == "in.csv":
        (tmp_path / name).write_text("1,2")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InvalidInput, match=message):
        predict_file(predictor, tmp_path / name, tmp_path / "out.npy")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["cut.npy", "cut.npz", "cut.parquet"])
def test_a_truncated_file_is_an_error(predictor: Predictor, tmp_path: Path, name: str) -> None:
    path = _save(tmp_path / name, contexts=some_contexts(50))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InvalidInput, match=f"{name}"):
        predict_file(predictor, path, tmp_path / "out.npy")


@pytest.mark.parametrize(
    ("request_", "cpus", "threads", "workers"),
    [
        (Request(), 2, 1, 2),
        (Request(), 12, 2, 6),
        (Request(threads=3), 12, 3, 4),
        (Request(threads=2), 2, 2, 2),
        (Request(backend="eager"), 2, 2, 2),
    ],
    ids=["two cpus", "twelve", "threads asked for", "all threads asked for", "no onnx"],
)
def test_runs_at_a_time_share_the_cpus(
    small_artifacts: Get, monkeypatch: pytest.MonkeyPatch, request_: Request, cpus: int, threads: int, workers: int
) -> None:
    open_it, asked = Predictor.from_request, []
    monkeypatch.setattr(
        Predictor, "from_request", lambda path, wanted: (asked.append(wanted), open_it(path, wanted))[1]
    )
    for module in ("bulk.predict", "selection.choice", "backends.onnx", "backends.torch_base"):
        monkeypatch.setattr(f"lvm_runtime.{module}.usable_cpus", lambda: cpus)
    with open_for_bulk(small_artifacts("amn"), request_) as predictor:
        assert predictor.explain().running.threads == threads
        assert workers_for(predictor) == workers
    assert asked[1:] == ([Request("onnx", "cpu", "fp32", threads=threads)] if request_ == Request() else [])


def test_documents_too_short_for_windows_cost_no_run_over_all_vectors(predictor: Predictor, tmp_path: Path) -> None:
    vectors = some_contexts(1, length=60)[0]
    doc_ids = np.repeat(np.arange(12), 5)  # one window each
    predict_file(predictor, _save(tmp_path / "in.npz", vectors=vectors, doc_ids=doc_ids), tmp_path / "out.npy")
    expected = predictor.predict(vectors.reshape(12, 5, -1))
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=0, atol=2e-6)


def test_a_bad_vector_in_no_window_spoils_nothing(predictor: Predictor, tmp_path: Path) -> None:
    vectors, doc_ids = some_contexts(1, length=23)[0], np.repeat([0, 1, 2], [10, 3, 10])
    expected = np.concatenate([predictor.predict_sequence(vectors[:10]), predictor.predict_sequence(vectors[13:])])
    vectors[11, 2] = np.nan
    result = predict_file(predictor, _save(tmp_path / "in.npz", vectors=vectors, doc_ids=doc_ids), tmp_path / "o.npy")
    assert result.bad == 0
    np.testing.assert_allclose(np.load(tmp_path / "o.npy"), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet"])
def test_names_and_shapes_are_looked_at_without_a_model(small_artifacts: Get, tmp_path: Path, suffix: str) -> None:
    artifact, out = small_artifacts("amn"), tmp_path / "out.npy"
    for arrays in ({"vectors": _vectors(), "doc_ids": DOC_IDS}, {"contexts": some_contexts(9)}):
        look_first(artifact, _save(tmp_path / f"in{suffix}", **arrays), out, overwrite=False)
    wide = _save(tmp_path / f"wide{suffix}", vectors=np.ones((len(DOC_IDS), 17), np.float32))
    with pytest.raises(InvalidInput, match=rf"array of shape \[{len(DOC_IDS)}, 17\], expected contexts \[N, 5, 16\]"):
        look_first(artifact, wide, out, overwrite=False)
    with pytest.raises(InvalidInput, match="lies in the artifact"):
        look_first(artifact, tmp_path / f"in{suffix}", artifact / "out.npy", overwrite=False)
    out.write_text("")
    with pytest.raises(InvalidInput, match="exists; choose another name"):
        look_first(artifact, tmp_path / f"in{suffix}", out, overwrite=False)
    look_first(artifact, tmp_path / f"in{suffix}", out, overwrite=True)
    assert out.read_text() == ""
    assert [path.name for path in tmp_path.glob("out*")] == ["out.npy"]
