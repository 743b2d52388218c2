"""The index of a corpus: exact where small, near to exact where large, and never one of other vectors."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lvm_runtime.commands.main import main
from lvm_runtime.errors import InvalidInput, WriteFailed
from lvm_runtime.retrieval import Index
from lvm_runtime.retrieval import index as index_module
from lvm_runtime.retrieval.ann import FILE
from lvm_runtime.retrieval.file_record import FileRecord
from lvm_runtime.retrieval.index import ANN, EXACT, MANIFEST
from lvm_runtime.system import atomic


def vectors(count: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    """Return vectors `[count, dim]` in groups, not of length 1."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((40, dim))
    return (centres[rng.integers(0, 40, count)] + 0.5 * rng.standard_normal((count, dim))).astype(np.float32)


def cosines(rows: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return the cosines of queries and rows in float64."""
    rows, queries = (x.astype(np.float64) / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, queries))
    return queries @ rows.T


def nearest(rows: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Return the k rows with the largest cosines."""
    return np.argsort(-cosines(rows, queries), axis=1)[:, :k]


@pytest.mark.parametrize("name", ["c.npy", "c.npz"])
def test_exact_is_exact(name: str, tmp_path: Path) -> None:
    rows, queries = vectors(20_000), vectors(50, seed=1)
    np.save(tmp_path / name, rows) if name == "c.npy" else np.savez(tmp_path / name, vectors=rows)
    index = Index.build(tmp_path / name)
    assert index.record.kind == EXACT
    hits = Index.open(tmp_path / name).search(queries, 10)
    assert np.array_equal(hits.rows, nearest(rows, queries, 10))
    assert (np.diff(hits.scores, axis=1) <= 0).all()
    many = index.search(queries, 300).scores
    np.testing.assert_allclose(many, -np.sort(-cosines(rows, queries), axis=1)[:, :300], rtol=0, atol=1e-6)
    one = index.search(queries[3], 4)
    assert np.array_equal(one.rows, hits.rows[3:4, :4])
    assert np.abs(one.scores - hits.scores[3:4, :4]).max() < 1e-6


def test_of_equal_vectors_the_first_come_first_whatever_else_is_asked(tmp_path: Path) -> None:
    """Products of matrices round by place and by batch: which of many copies came, and of near copies, was chance."""
    rows, queries = vectors(10_000), vectors(64, seed=1)
    copies = np.r_[7, 300:340, 9_000:9_040]
    rows[copies] = rows[7]
    rows[4_000:7_000] = rows[4_000] + 1e-7 * np.random.default_rng(2).standard_normal((3_000, 16))
    queries[:8] = rows[7]
    queries[8:32] = rows[4_000] + 0.1 * queries[8:32]
    np.save(tmp_path / "c.npy", rows)
    index = Index.build(tmp_path / "c.npy")
    together = index.search(queries, 5)
    assert together.rows[:8].tolist() == [copies[:5].tolist()] * 8
    for i, query in enumerate(queries):
        alone = index.search(query, 5)
        assert np.array_equal(alone.rows[0], together.rows[i])
        assert np.array_equal(alone.scores[0], together.scores[i])
    assert np.array_equal(index.search(queries, 90).rows[:8, :81], np.tile(copies, (8, 1)))


@pytest.mark.parametrize("kind", [EXACT, ANN])
def test_many_queries_are_searched_for_in_parts(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once they took gigabytes: queries times vectors, and queries times k times D."""
    np.save(tmp_path / "c.npy", vectors(500))
    index, queries = Index.build(tmp_path / "c.npy", kind), vectors(40, seed=1)
    whole = index.search(queries, 3)
    asked: list[int] = []
    search = index._search.search
    monkeypatch.setattr(index._search, "search", lambda part, k: (asked.append(len(part)), search(part, k))[1])
    monkeypatch.setattr(index_module, "_COMPARED", 3 * 16 * 7)
    hits = index.search(queries, 3)
    assert asked == [7] * 5 + [5]
    assert np.array_equal(hits.rows, whole.rows)
    assert np.array_equal(hits.scores, whole.scores)


def test_approximate_finds_nearly_all_and_scores_exactly(tmp_path: Path) -> None:
    rows, queries = vectors(30_000), vectors(100, seed=1)
    np.save(tmp_path / "c.npy", rows.astype(np.float16))
    Index.build(tmp_path / "c.npy", ANN)
    index = Index.open(tmp_path / "c.npy.index")
    assert index.record.kind == ANN
    hits, truth = index.search(queries, 10), nearest(rows, queries, 10)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(hits.rows.tolist(), truth.tolist(), strict=True)])
    assert recall > 0.97
    exact = np.einsum("qkd,qd->qk", index.vectors(hits.rows), queries) / np.linalg.norm(queries, axis=1)[:, None]
    assert np.abs(hits.scores - exact).max() < 1e-6


@pytest.mark.parametrize("kind", [EXACT, ANN])
def test_more_hits_than_vectors_are_all_vectors_once(kind: str, tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", vectors(300))
    hits = Index.build(tmp_path / "c.npy", kind).search(vectors(3, seed=1), 1000)
    assert [sorted(row) for row in hits.rows.tolist()] == [list(range(300))] * 3
    assert np.isfinite(hits.scores).all()


@pytest.mark.parametrize("found", [[4, 2, -1, -1], [-1, 2, 4, -1]], ids=["first", "between"])
def test_places_without_a_candidate_are_no_hits(found: list[int], tmp_path: Path) -> None:
    """An approximate search says −1 there, which is the last vector to numpy."""
    np.save(tmp_path / "c.npy", np.eye(5, 16, dtype=np.float32))
    index = Index.build(tmp_path / "c.npy")
    index._search = SimpleNamespace(search=lambda queries, k: np.array([found]))  # type: ignore[assignment]
    hits = index.search(np.eye(5, 16)[4] + 2 * np.eye(5, 16)[2], 2)
    assert hits.rows.tolist() == [[2, 4]]
    np.testing.assert_allclose(hits.scores, [[2 / 5**0.5, 1 / 5**0.5]], rtol=1e-6)


def _rewrite(path: Path) -> None:
    np.savez(path, vectors=vectors(50, seed=2))  # as many bytes as before


def _touch(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    os.utime(path, (1, 1))


@pytest.mark.parametrize("kind", [EXACT, ANN])
def test_a_corpus_that_changes_while_it_is_indexed_is_an_error(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index of the vectors from before would be taken for that of the file that took their place."""
    np.save(tmp_path / "c.npy", vectors(300))
    np.save(tmp_path / "other.npy", vectors(300, seed=1))
    check = index_module._check_values

    def replaced(corpus: Any) -> None:
        check(corpus)
        (tmp_path / "other.npy").replace(tmp_path / "c.npy")

    monkeypatch.setattr(index_module, "_check_values", replaced)
    with pytest.raises(InvalidInput, match="another program changed it while it was indexed"):
        Index.build(tmp_path / "c.npy", kind)
    assert not (tmp_path / "c.npy.index").exists()


def test_an_index_that_is_made_again_while_it_is_opened_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that opens it meanwhile was told that it is damaged, or got another one's candidates."""
    corpus = tmp_path / "c.npy"
    np.save(corpus, vectors(300))
    Index.build(corpus, ANN)
    read, made = index_module._open_vectors, list[int]()

    def slow(path: Path) -> Any:
        opened = read(path)
        if len(made) < 6 and not building:
            building.append(True)
            np.save(corpus, vectors(300, seed=len(made) + 1))
            Index.build(corpus, ANN if len(made) % 2 else EXACT)
            made.append(len(made))
            building.clear()
        return opened

    building: list[bool] = []
    monkeypatch.setattr(index_module, "_open_vectors", slow)
    with pytest.raises(InvalidInput, match="was made again 5 times while it was opened"):
        Index.open(corpus)
    index = Index.open(corpus)
    assert len(made) == 6
    assert index.record.kind == ANN
    assert np.array_equal(index.corpus.values, vectors(300, seed=6))


def test_an_index_is_ready_though_another_writer_replaces_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "c.npy", vectors(300))
    exchange = atomic.exchange

    def replaced(temporary: Path, path: Path) -> bool:
        done = exchange(temporary, path)
        (path / FILE).unlink(missing_ok=True)  # as in an exact index, which has no such file
        return done

    Index.build(tmp_path / "c.npy", EXACT)
    monkeypatch.setattr(atomic, "exchange", replaced)
    assert Index.build(tmp_path / "c.npy", ANN).search(np.ones(16), 3).rows.shape == (1, 3)


def test_a_corpus_that_changed_is_noticed_and_one_that_was_copied_is_not(tmp_path: Path) -> None:
    corpus = tmp_path / "c.npz"
    np.savez(corpus, vectors=vectors(50))
    Index.build(corpus)
    shutil.copytree(tmp_path, tmp_path / "moved", ignore=shutil.ignore_patterns("moved"))
    _touch(corpus)
    assert Index.open(corpus).record.vectors == 50
    before = corpus.stat()
    _rewrite(corpus)
    assert corpus.stat().st_size == before.st_size
    os.utime(corpus, ns=(before.st_atime_ns, before.st_mtime_ns))
    message = r"c\.npz is no longer the one that was indexed; make the index again: lvm-runtime index .*c\.npz"
    with pytest.raises(InvalidInput, match=message):
        Index.open(corpus)
    assert Index.open(tmp_path / "moved/c.npz").corpus.name == str(tmp_path / "moved/c.npz")  # its own, not the first
    Index.build(corpus)
    Index.open(corpus)
    corpus.unlink()
    with pytest.raises(InvalidInput, match="no such file"):
        Index.open(tmp_path / "c.npz.index")


def test_an_index_elsewhere_finds_its_corpus_and_does_not_read_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "c.npy", vectors(50))
    Index.build(tmp_path / "c.npy", out=tmp_path / "elsewhere" / "index")
    monkeypatch.setattr("lvm_runtime.retrieval.file_record._sha256", None)
    assert Index.open(tmp_path / "elsewhere" / "index").corpus.name == str(tmp_path / "c.npy")


@pytest.mark.parametrize("name", ["c.ids.npy", "c.chunks.npz"])
def test_files_that_came_to_the_corpus_are_noticed(name: str, tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", vectors(50))
    Index.build(tmp_path / "c.npy")
    with (tmp_path / name).open("wb") as file:
        np.save(file, np.arange(50)) if name == "c.ids.npy" else np.savez(file, texts=np.array(["a"] * 50))
    with pytest.raises(InvalidInput, match="no longer the one that was indexed"):
        Index.open(tmp_path / "c.npy")


def test_what_lies_beside_an_npz_is_not_part_of_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", vectors=vectors(50))
    np.save(tmp_path / "c.ids.npy", np.arange(50))
    assert [file.name for file in Index.build(tmp_path / "c.npz").record.corpus] == ["c.npz"]


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no manifest": lambda folder: (folder / MANIFEST).unlink(),
    "manifest of another kind": lambda folder: (folder / MANIFEST).write_text("[]"),
    "manifest cut off": lambda folder: (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:99]),
    "key": lambda folder: (folder / MANIFEST).write_text((folder / MANIFEST).read_text().replace('"dim"', '"d"')),
    "dim": lambda folder: (folder / MANIFEST).write_text((folder / MANIFEST).read_text().replace("16", "17")),
    "name that leads out": lambda folder: (folder / MANIFEST).write_text(
        (folder / MANIFEST).read_text().replace("vectors.faiss", "../c.npy")
    ),
    "bit": lambda folder: _flip(folder / "vectors.faiss"),
    "no vectors": lambda folder: (folder / "vectors.faiss").unlink(),
    "no corpus": lambda folder: _edit(folder / MANIFEST, lambda found: found.update(corpus=[])),
    "impossible name": lambda folder: _edit(folder / MANIFEST, lambda found: found["files"][0].update(name="x" * 999)),
}


def _edit(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    found = json.loads(path.read_text())
    edit(found)
    path.write_text(json.dumps(found))


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_corpus_without_an_index_is_told_from_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"c\.npy: no such file; expected a corpus"):
        Index.open(tmp_path / "c.npy")
    np.save(tmp_path / "c.npy", vectors(300))
    with pytest.raises(InvalidInput, match=rf"no index .*; make one: lvm-runtime index {tmp_path}/c\.npy$"):
        Index.open(tmp_path / "c.npy")
    with pytest.raises(InvalidInput, match=r"no index .*; make one: lvm-runtime index CORPUS$"):
        Index.open(tmp_path)
    for ask, name in (
        (Index.open, "path"),
        (Index.build, "corpus"),
        (partial(Index.build, tmp_path / "c.npy", "auto"), "out"),
    ):
        with pytest.raises(InvalidInput, match=f"^{name} is 3, no name of a file"):
            ask(3)


def test_indexing_many_vectors_says_what_it_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "c.npy", vectors(300))
    assert main(["index", str(tmp_path / "c.npy"), "--kind", "ann"]) == 0
    said = capsys.readouterr()
    assert said.err.splitlines() == ["grouping 280 vectors around 7 centroids", "adding 300 vectors"]
    assert said.out == f"{tmp_path}/c.npy.index: 300 vectors, D=16, approximate, 0.0 MB\n"


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_index_is_an_error_that_says_what_to_do(damage: Callable[[Path], object], tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", vectors(300))
    index = Index.build(tmp_path / "c.npy", ANN)
    damage(index.path)
    with pytest.raises(InvalidInput, match=r"c\.npy\.index: (damaged index|no index) .*lvm-runtime index"):
        Index.open(index.path)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_index_can_be_made_again(damage: Callable[[Path], object], tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", vectors(300))
    index = Index.build(tmp_path / "c.npy", ANN)
    damage(index.path)
    if not (index.path / MANIFEST).exists():
        index.path.rename(tmp_path / "away")
    assert Index.build(tmp_path / "c.npy").record.kind == EXACT


@pytest.mark.parametrize("others", [["precious.txt"], []], ids=["among files", "alone"])
def test_a_folder_with_an_index_of_something_else_is_not_replaced(others: list[str], tmp_path: Path) -> None:
    """`index.json` is a common name, and the whole folder would be gone."""
    np.save(tmp_path / "c.npy", vectors(40))
    (tmp_path / "web").mkdir()
    for name in ["index.json", *others]:
        (tmp_path / "web" / name).write_text('{"pages": []}')
    with pytest.raises(InvalidInput, match="web: exists and is not an index"):
        Index.build(tmp_path / "c.npy", out=tmp_path / "web")
    assert sorted(path.name for path in (tmp_path / "web").iterdir()) == ["index.json", *others]
    for kind in (ANN, EXACT):
        assert Index.build(tmp_path / "c.npy", kind, tmp_path / "own").record.kind == kind


@pytest.mark.parametrize("other", [vectors(300, dim=24), vectors(301)], ids=["dimension", "count"])
def test_approximate_vectors_of_another_corpus_are_refused(other: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", vectors(300))
    np.save(tmp_path / "other.npy", other)
    index, file = Index.build(tmp_path / "c.npy", ANN), Index.build(tmp_path / "other.npy", ANN).path / FILE
    shutil.copy(file, index.path / FILE)
    _edit(index.path / MANIFEST, lambda found: found.update(files=[asdict(FileRecord.of(index.path / FILE))]))
    with pytest.raises(InvalidInput, match=rf"{FILE}: index of \[30[01], (16|24)\], expected \[300, 16\]"):
        Index.open(index.path)


@pytest.mark.parametrize("scale", [1e-22, 1e-37], ids=str)
def test_tiny_vectors_have_directions_too(scale: float, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((40, 16))
    np.save(tmp_path / "c.npy", vectors)
    np.save(tmp_path / "tiny.npy", (vectors * scale).astype(np.float32))
    expected = Index.build(tmp_path / "c.npy").search(vectors[:3], k=5)
    found = Index.build(tmp_path / "tiny.npy").search((vectors[:3] * scale).astype(np.float32), k=5)
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=1e-5)


def test_what_cannot_be_indexed_or_searched_is_refused(tmp_path: Path) -> None:
    rows = vectors(40)
    np.savez(tmp_path / "empty.npz", vectors=rows[:0])
    np.savez(tmp_path / "contexts.npz", contexts=rows.reshape(8, 5, 16))
    np.savez(tmp_path / "flat.npz", vectors=rows[:, :0])
    pq.write_table(pa.table({"contexts": rows[:15].reshape(16, 15).tolist()}), tmp_path / "flat.parquet")
    rows[7, 3] = np.nan
    np.savez(tmp_path / "nan.npz", vectors=rows)
    np.savez(tmp_path / "far.npz", vectors=vectors(40).astype(np.float64) * 1e300)
    for name, message in (
        ("empty.npz", "holds no vectors"),
        ("flat.npz", r"array of shape \[40, 0\], expected contexts"),
        ("contexts.npz", r"holds contexts \[8, 5, 16\], expected vectors"),
        ("flat.parquet", r"holds contexts \[16, 1, 15\], expected vectors"),
        ("nan.npz", "row 7, component 3 is nan"),
        ("far.npz", "row 0, component 0 .*too large for float32"),
    ):
        with pytest.raises(InvalidInput, match=message):
            Index.build(tmp_path / name)
        assert not (tmp_path / f"{name}.index").exists()
    np.savez(tmp_path / "c.npz", vectors=vectors(40))
    (tmp_path / "mine").mkdir()
    with pytest.raises(InvalidInput, match="mine: exists and is not an index"):
        Index.build(tmp_path / "c.npz", out=tmp_path / "mine")
    with pytest.raises(WriteFailed, match="cannot be written"):
        Index.build(tmp_path / "c.npz", out=tmp_path / ("long" * 99))
    index = Index.build(tmp_path / "c.npz")
    for queries, message in (
        (np.ones((2, 15)), r"shape \[2, 15\], expected \[q, 16\]"),
        (np.full((2, 16), np.inf), "row 0, component 0 is inf"),
        (np.eye(2, 16) * [[1], [0]], "row 1 is zero and has no direction"),
    ):
        with pytest.raises(InvalidInput, match=message):
            index.search(queries)
    for rows_asked in ([40], [-1], [1.5], "3"):
        with pytest.raises(InvalidInput, match="expected whole numbers from 0 to 39"):
            index.vectors(rows_asked)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="k is 0, expected a whole number"):
        index.search(np.ones(16), 0)
    assert json.loads((index.path / MANIFEST).read_text())["kind"] == EXACT
