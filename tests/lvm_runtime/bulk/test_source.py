"""What a bulk run reads: told to the system ahead, aligned, and handed back."""

from __future__ import annotations

import mmap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lvm_runtime.bulk.source import Source
from lvm_runtime.corpus.corpus import open_corpus
from tests.lvm_runtime.bulk.test_bulk import DOC_IDS, _save, _vectors


@pytest.mark.parametrize("mapping", [None, "advised", "of a system without advice"])
def test_the_system_is_told_that_a_mapped_file_is_read_from_front_to_back(
    mapping: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = open_corpus(_save(tmp_path / "in.npy", vectors=_vectors()), context_length=5, dim=16)
    told: list[int] = []
    found = {None: None, "advised": SimpleNamespace(madvise=told.append)}.get(mapping, SimpleNamespace())
    monkeypatch.setattr("lvm_runtime.bulk.source.mapping_of", lambda values: found if values is corpus.values else None)
    Source(corpus, 5)
    assert told == ([mmap.MADV_SEQUENTIAL] if mapping == "advised" else [])


def test_what_is_read_of_a_stored_npz_is_aligned_and_what_was_read_is_handed_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members of an archive that is not compressed are mapped, and lie at any byte."""
    vectors, mapped_at, released = _vectors(), set(), list[Any]()
    monkeypatch.setattr("lvm_runtime.bulk.source.release_rows", lambda *asked: released.append(asked))
    for shift in range(4):
        arrays = {"x" * (shift + 1): np.zeros(1), "vectors": vectors, "doc_ids": DOC_IDS}
        np.savez(tmp_path / "in.npz", **arrays)
        source = Source(corpus := open_corpus(tmp_path / "in.npz", context_length=5, dim=16), 5)
        mapped_at.add(corpus.values.ctypes.data % 4)
        values, _ = source.read(2, 9)
        assert values.flags.aligned
        first, last = source.rows(2, 3)[0] - 4, source.rows(8, 9)[0] + 1
        np.testing.assert_array_equal(values, vectors[first:last])
        source.release(2, 9)
        assert released[-1][0] is corpus.values
        assert released[-1][1:] == (first, last)
    assert mapped_at == {0, 1, 2, 3}
