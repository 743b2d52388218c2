"""Windows gathered on the device, and splits that no window straddles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lvm_runtime.corpus.corpus import Corpus
from lvm_runtime.errors import InvalidInput
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
    last, first = int(split.train.groups[-1]), int(split.validation.groups[0])
    assert first - last > T


def test_batches_hold_the_right_rows(tmp_path: Path) -> None:
    corpus = make(4)
    np.save(tmp_path / "v.npy", corpus.values)
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    stores = [VectorStore(corpus.values, "cpu"), VectorStore(mapped, "cpu", resident_bytes=0)]
    assert [s.resident for s in stores] == [True, False]
    for store in stores:
        part = split_windows(corpus, np.ones(36, bool), store, validation=0.25).train
        contexts, targets = part.batch(torch.tensor([0, 10]))
        assert contexts[:, :, 0].tolist() == [[0, 1, 2, 3, 4], [10, 11, 12, 13, 14]]
        assert targets[:, 0].tolist() == [5, 15]
        assert contexts.is_contiguous()
        assert targets.is_contiguous()


def test_windows_that_touch_unusable_rows_are_left_out() -> None:
    corpus = make(3)
    usable = np.ones(27, bool)
    usable[4] = False
    split = split_windows(corpus, usable, VectorStore(corpus.values, "cpu"), validation=0.3)
    assert 4 not in rows_of(split.train)
    assert len(split.train) == 4  # the second document's four; row 4 is in all of the first's


def test_normalize_divides_by_length() -> None:
    rows = VectorStore(np.full((2, 4), 3.0), "cpu", normalize=True).rows(torch.tensor([1]))
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(1))


@pytest.mark.parametrize("documents", [0, 1], ids=["no window", "one document"])
def test_empty_side_is_an_error(documents: int) -> None:
    corpus = make(documents) if documents else make(2, length=4)
    with pytest.raises(InvalidInput, match="window"):
        split_windows(corpus, np.ones(len(corpus.values), bool), VectorStore(corpus.values, "cpu"))
