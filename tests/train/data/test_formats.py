"""Reading corpora: every format gives the same corpus, every odd file one clear error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lvm_runtime.errors import InvalidInput
from train.data.formats import CONTEXT_KEYS, TARGET_KEYS, read_corpus

RNG = np.random.default_rng(0)
VECTORS = RNG.standard_normal((12, 4)).astype(np.float32)
IDS = np.repeat([0, 1], 6)


def write(folder: Path, kind: str) -> Path:
    """Write the same corpus as `kind` and return its path."""
    path = folder / f"corpus.{kind}"
    if kind == "npz":
        np.savez(path, vectors=VECTORS, doc_ids=IDS)
    elif kind == "npy":
        np.save(path, VECTORS)
        np.save(folder / "corpus.ids.npy", IDS)
    else:
        column = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.reshape(-1)), 4)
        pq.write_table(pa.table({"vector": column, "doc_id": IDS}), path, row_group_size=5)
    return path


@pytest.mark.parametrize("kind", ["npz", "npy", "parquet"])
def test_formats_agree(tmp_path: Path, kind: str) -> None:
    corpus = read_corpus(write(tmp_path, kind))
    np.testing.assert_array_equal(corpus.vectors, VECTORS)
    np.testing.assert_array_equal(corpus.doc_ids, IDS)


def test_npy_pair_is_mapped(tmp_path: Path) -> None:
    assert isinstance(read_corpus(write(tmp_path, "npy")).vectors, np.memmap)


@pytest.mark.parametrize(("contexts", "targets"), list(zip(CONTEXT_KEYS, TARGET_KEYS, strict=True)))
def test_window_format(tmp_path: Path, contexts: str, targets: str) -> None:
    x, y = RNG.standard_normal((3, 5, 4)), RNG.standard_normal((3, 4))
    metadata = np.array([json.dumps({"article_index": i}) for i in (0, 0, 7)])
    np.savez(tmp_path / "w.npz", **{contexts: x, targets: y, "metadata": metadata})
    corpus = read_corpus(tmp_path / "w.npz")
    np.testing.assert_array_equal(corpus.vectors.reshape(3, 6, 4)[:, :5], x)
    np.testing.assert_array_equal(corpus.vectors.reshape(3, 6, 4)[:, 5], y)
    assert corpus.groups is not None
    assert corpus.groups[::6].tolist() == [0, 0, 7]


def test_object_arrays_need_a_voucher(tmp_path: Path) -> None:
    x, y = RNG.standard_normal((3, 5, 4)), RNG.standard_normal((3, 4))
    objects = np.empty(3, dtype=object)
    objects[:] = [{"article_index": i} for i in (1, 2, 2)]
    np.savez(tmp_path / "w.npz", contexts=x, targets=y, metadata=objects)
    with pytest.raises(InvalidInput, match="--trust-pickle"):
        read_corpus(tmp_path / "w.npz")
    groups = read_corpus(tmp_path / "w.npz", trust_pickle=True).groups
    assert groups is not None
    assert groups[::6].tolist() == [1, 2, 2]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "missing keys": ({"a": VECTORS}, "has keys a; expected"),
    "wrong rank": ({"vectors": VECTORS[0], "doc_ids": IDS}, r"expected \[N, D\]"),
    "ids of another length": ({"vectors": VECTORS, "doc_ids": IDS[:3]}, r"doc_ids \(3,\)"),
    "integer vectors": ({"vectors": VECTORS.astype(int), "doc_ids": IDS}, "expected float16"),
    "float ids": ({"vectors": VECTORS, "doc_ids": IDS * 1.0}, "expected integers"),
    "falling ids": ({"vectors": VECTORS, "doc_ids": IDS[::-1]}, "expected ascending"),
    "targets of another size": ({"contexts": np.ones((2, 5, 4)), "targets": np.ones((2, 3))}, r"targets \(2, 3\)"),
    "strings": ({"vectors": np.array([["a"]]), "doc_ids": np.array([0])}, "expected float16"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_content_says_what_came(tmp_path: Path, name: str) -> None:
    arrays, message = BAD[name]
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InvalidInput, match=message):
        read_corpus(tmp_path / "bad.npz")


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".parquet"])
def test_garbage_is_one_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(b"not a corpus at all")
    np.save(tmp_path / "bad.ids.npy", IDS)
    with pytest.raises(InvalidInput, match="bad"):
        read_corpus(path)


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no such file"):
        read_corpus(tmp_path / "none.npz")
    (tmp_path / "x.csv").write_text("1")
    with pytest.raises(InvalidInput, match=r"suffix '\.csv'"):
        read_corpus(tmp_path / "x.csv")
    np.save(tmp_path / "lone.npy", VECTORS)
    with pytest.raises(InvalidInput, match=r"lone\.ids\.npy is missing"):
        read_corpus(tmp_path / "lone.npy")
