"""Windows gathered on the device, and splits that no window straddles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from lvm_runtime.corpus.corpus import Corpus
from lvm_runtime.corpus.split import last_windows
from lvm_runtime.errors import InvalidInput
from tests.fuzzing import quick_settings
from train.data.windows import VectorStore, split_windows

T = 5


def make(documents: int, length: int = 9, grouped: bool = True) -> Corpus:
    """Return a corpus whose row i is filled with i."""
    n = documents * length
    vectors = np.repeat(np.arange(n, dtype=np.float32)[:, None], 3, axis=1)
    ids = np.repeat(np.arange(documents), length)
    return Corpus("test", vectors, ids, ids if grouped else None)


def rows_of(part: object) -> set[int]:
    """Return every corpus row that a side's windows touch."""
    starts = part.starts.tolist()  # type: ignore[attr-defined]
    return {s + i for s in starts for i in range(T + 1)}


@pytest.mark.parametrize("how", ["last", "random"])
@pytest.mark.parametrize("grouped", [True, False], ids=["documents", "no documents"])
def test_no_row_is_on_two_sides(how: str, grouped: bool) -> None:
    corpus = make(20, grouped=grouped)
    store = VectorStore(corpus.values, "cpu")
    usable = np.ones(len(corpus.values), bool)
    split = split_windows(corpus, usable, store, validation=0.2, test=0.1, how=how, seed=1)
    sides = [rows_of(part) for part in (split.train, split.validation, split.test)]
    assert all(sides)
    assert sum(map(len, sides)) == len(set.union(*sides))
    assert bool(split.remarks) is not grouped
    if grouped:
        assert len(np.unique(split.validation.groups)) == 4


def test_overlapping_windows_without_documents_keep_a_gap() -> None:
    """Ready-cut windows repeat their neighbours' vectors, so the gap is counted in windows."""
    n = 60
    ids = np.repeat(np.arange(n), T + 1)
    corpus = Corpus("w", np.ones((n * (T + 1), 2), np.float32), ids, None)
    split = split_windows(corpus, np.ones(len(ids), bool), VectorStore(corpus.values, "cpu"), validation=0.2)
    last, first = int(split.train.starts[-1]) // (T + 1), int(split.validation.starts[0]) // (T + 1)
    assert first - last > T


@pytest.mark.parametrize(("documents", "length", "groups"), [(10, 100, 19), (2, 40, 3)], ids=["many", "few"])
def test_windows_without_documents_are_in_stretches(documents: int, length: int, groups: int) -> None:
    """Neighbours share five of six vectors: as groups of their own they made intervals far too narrow."""
    corpus = make(documents, length, grouped=False)
    usable = np.ones(len(corpus.values), bool)
    found = split_windows(corpus, usable, VectorStore(corpus.values, "cpu"), validation=0.2).validation
    counts = np.unique(found.groups, return_counts=True)[1]
    assert len(counts) == groups <= 20
    assert counts[:-1].min(initial=T + 1) >= T + 1
    assert (np.diff(found.groups) >= 0).all()


def test_an_export_is_checked_on_documents_that_trained_nothing() -> None:
    """Half of the documents are too short for a window, and all of these come first."""
    lengths = np.repeat([3, 9], 20)
    ids = np.repeat(np.arange(40), lengths)
    corpus = Corpus("test", np.ones((len(ids), 3), np.float32), ids, ids)
    split = split_windows(corpus, np.ones(len(ids), bool), VectorStore(corpus.values, "cpu"), validation=0.1)
    assert last_windows(corpus, T + 1, 0.1).tolist() == split.validation.starts.tolist()
    assert len(last_windows(corpus, 10, 0.1)) == 0


@pytest.mark.parametrize(
    ("corpus", "unusable", "said"),
    [
        (make(1), 0, "test: training gets no window of 1 document; give it a larger share or a larger corpus"),
        (make(2, 5), 0, "test: no document has 6 usable vectors in a row, so there is no window"),
        (make(2), 18, "test: no document has 6 usable vectors in a row, so there is no window (18 of 18 vectors have "
                      "no length)"),
    ],
    ids=["one document", "short documents", "vectors without a length"],
)  # fmt: skip
def test_a_corpus_without_windows_is_told_why(corpus: Corpus, unusable: int, said: str) -> None:
    usable = np.arange(len(corpus.values)) >= unusable
    with pytest.raises(InvalidInput) as refused:
        split_windows(corpus, usable, VectorStore(corpus.values, "cpu"))
    assert str(refused.value) == said


def test_batches_hold_the_right_rows(tmp_path: Path) -> None:
    corpus = make(4)
    np.save(tmp_path / "v.npy", corpus.values)
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    stores = [VectorStore(corpus.values, "cpu"), VectorStore(mapped, "cpu", resident_bytes=0)]
    for store in stores:
        part = split_windows(corpus, np.ones(36, bool), store, validation=0.25).train
        contexts, targets = part.batch(torch.tensor([0, 10]))
        assert contexts[:, :, 0].tolist() == [[0, 1, 2, 3, 4], [10, 11, 12, 13, 14]]
        assert targets[:, 0].tolist() == [5, 15]
        assert contexts.is_contiguous()
        assert targets.is_contiguous()


@quick_settings(100)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=2, max_size=8),
    length=st.integers(1, T),
    unusable=st.sets(st.integers(0, 95), max_size=4),
    how=st.sampled_from(["last", "random"]),
)
def test_sides_hold_the_windows_of_a_plain_loop(lengths: list[int], length: int, unusable: set[int], how: str) -> None:
    """All of them, none with an unusable vector or target, and each document on one side, the last ones in "last"."""
    ids = np.repeat(np.arange(len(lengths)), lengths)
    usable = np.array([row not in unusable for row in range(len(ids))])
    plain = [s for s in range(len(ids) - length) if ids[s] == ids[s + length] and usable[s : s + length + 1].all()]
    assume(len(set(ids[plain])) > 1)
    corpus = Corpus("test", np.ones((len(ids), 3), np.float32), ids, ids)
    store = VectorStore(corpus.values, "cpu")
    split = split_windows(corpus, usable, store, context_length=length, validation=0.3, how=how, seed=1)
    train, validation = split.train, split.validation
    assert sorted(train.starts.tolist() + validation.starts.tolist()) == plain
    assert not set(train.groups) & set(validation.groups)
    for side in (train, validation):
        np.testing.assert_array_equal(side.groups, ids[side.starts.numpy()])
    assert how == "random" or train.groups.max() < validation.groups.min()


def test_a_random_split_is_drawn_by_its_seed() -> None:
    corpus = make(20)
    store, usable = VectorStore(corpus.values, "cpu"), np.ones(180, bool)
    first, same, other = (
        set(split_windows(corpus, usable, store, validation=0.2, how="random", seed=seed).validation.groups)
        for seed in (1, 1, 2)
    )
    assert first == same != other


@pytest.mark.parametrize("limit", [0, 1 << 20], ids=["mapped", "resident"])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_normalize_divides_by_length(kind: type, limit: int) -> None:
    vectors = np.random.default_rng(0).standard_normal((6, 5)).astype(kind)
    found = VectorStore(vectors, "cpu", normalize=True, resident_bytes=limit).rows(torch.tensor([[1, 4], [0, 5]]))
    wide = vectors[[[1, 4], [0, 5]]].astype(np.float64)
    torch.testing.assert_close(found, torch.from_numpy(wide / np.linalg.norm(wide, axis=2, keepdims=True)).float())
    assert VectorStore(vectors, "cpu", resident_bytes=limit).rows(torch.tensor([1])).dtype == torch.float32


def test_vectors_are_copied_up_to_the_limit_in_float32() -> None:
    vectors = np.zeros((5, 3), np.float16)
    stores = [VectorStore(vectors, "cpu", resident_bytes=limit) for limit in (60, 59)]
    vectors[2] = 1
    assert [store.rows(torch.tensor([2])).tolist() for store in stores] == [[[0, 0, 0]], [[1, 1, 1]]]
    assert [len(store) for store in stores] == [5, 5]


def test_windows_are_gathered_on_the_device_of_the_store() -> None:
    """On "meta", which is a device of its own and holds no values."""
    corpus = make(4)
    usable = np.ones(36, bool)
    windows = split_windows(corpus, usable, VectorStore(corpus.values, "meta"), validation=0.25).train
    parts = (windows.starts, windows.sample(2).starts, *windows.batch(windows.starts))
    assert {part.device.type for part in parts} == {"meta"}
    mapped = VectorStore(corpus.values, "meta", resident_bytes=0)
    assert mapped.rows(torch.tensor([1])).device.type == "meta"


def test_batches_and_samples_are_in_order_and_evenly_spaced() -> None:
    corpus = make(3)
    windows = split_windows(corpus, np.ones(27, bool), VectorStore(corpus.values, "cpu"), validation=0.3).train
    assert windows.starts.tolist() == [0, 1, 2, 3, 9, 10, 11, 12]
    assert [batch.tolist() for batch in windows.batches(3)] == [[0, 1, 2], [3, 9, 10], [11, 12]]
    sample = windows.sample(3)
    assert (sample.starts.tolist(), sample.groups.tolist(), sample.context_length) == ([0, 3, 12], [0, 0, 1], T)
    assert sample.store is windows.store
    assert [len(windows.sample(count)) for count in (7, 8, 9)] == [7, 8, 8]
    assert windows.sample(8) is windows


@pytest.mark.parametrize("documents", [0, 1], ids=["no window", "one document"])
def test_empty_side_is_an_error(documents: int) -> None:
    corpus = make(documents) if documents else make(2, length=4)
    with pytest.raises(InvalidInput, match="window"):
        split_windows(corpus, np.ones(len(corpus.values), bool), VectorStore(corpus.values, "cpu"))
