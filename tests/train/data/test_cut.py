"""A slice of a corpus: whole documents in their order, within the budget."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lvm_runtime.errors import InvalidInput
from train.data.cut import cut


def corpus(folder: Path) -> Path:
    """Write 40 documents of 1 to 40 vectors of D=8, whose first number is the document."""
    ids = np.repeat(np.arange(40), np.arange(1, 41)).astype(np.int64)
    vectors = np.ones((len(ids), 8), np.float32)
    vectors[:, 0] = ids
    np.savez(folder / "whole.npz", vectors=vectors, doc_ids=ids)
    return folder / "whole.npz"


def test_a_slice_holds_whole_documents_in_their_order(tmp_path: Path) -> None:
    out = tmp_path / "slice.npz"
    said = cut(corpus(tmp_path), out, 12_000, seed=3)
    assert out.stat().st_size <= 12_000
    with np.load(out) as found:
        vectors, ids = found["vectors"], found["doc_ids"]
    np.testing.assert_array_equal(vectors[:, 0], ids)
    kept, first, lengths = np.unique(ids, return_index=True, return_counts=True)
    np.testing.assert_array_equal(lengths, kept + 1)
    assert (np.diff(first) > 0).all()
    assert f"{len(ids)} vectors of {len(kept)} documents" in said
    assert 5 < len(kept) < 40


def test_a_slice_without_a_document_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="needs more than 2,060 bytes"):
        cut(corpus(tmp_path), tmp_path / "slice.npz", 2_060, seed=0)
    assert not (tmp_path / "slice.npz").exists()
