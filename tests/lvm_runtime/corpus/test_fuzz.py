"""Damaged files of a corpus: an InvalidInput, or arrays no larger than what the file holds, and nothing else."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lvm_runtime.corpus.corpus import joined, open_corpus
from lvm_runtime.errors import InvalidInput
from tests.fuzzing import damaged

VECTORS = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
IDS = np.repeat([0, 1, 2], 20)
META = np.array(['{"article_index": 1}'] * 12)
LISTS = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.reshape(-1)), 4)


def _write(name: str, path: Path) -> None:
    if name == "npy":
        np.save(path, VECTORS)
    elif name == "ids.npy":
        np.save(path, IDS)
    elif name == "npz":
        np.savez(path, vectors=VECTORS, doc_ids=IDS.astype(str))
    elif name == "compressed.npz":
        np.savez_compressed(path, contexts=VECTORS.reshape(12, 5, 4), targets=VECTORS[:12], metadata=META)
    elif name == "parquet":
        pq.write_table(pa.table({"vectors": LISTS, "doc_ids": IDS}), path, row_group_size=20)
    else:
        ids = pa.array(IDS.astype(str).tolist()).dictionary_encode()
        pq.write_table(pa.table({"vectors": VECTORS.tolist(), "doc_ids": ids}), path, compression="zstd")


CASES = {
    "npy": 4_000,
    "ids.npy": 4_000,
    "npz": 5_000,
    "compressed.npz": 4_000,
    "parquet": 4_000,
    "lists.parquet": 4_000,
}


def _run(name: str, cases: int, seed: int, folder: Path) -> None:
    path = folder / f"bad.{name}"
    read = path if name != "ids.npy" else folder / "bad.npy"
    np.save(folder / "bad.npy", VECTORS)
    _write(name, path)
    whole, generator, refused = path.read_bytes(), random.Random(seed), 0
    for case in range(cases):
        path.write_bytes(damaged(whole, generator))
        try:
            corpus = joined(open_corpus(read, context_length=5))
            assert corpus.values.dtype.kind == "f"
            assert corpus.doc_ids is None or len(corpus.doc_ids) == len(corpus.values)
            np.asarray(corpus.values).sum(dtype=np.float64)  # every page can be read
        except InvalidInput as error:
            refused += str(error).isprintable()
        except BaseException as error:
            raise AssertionError(f"{name}, seed {seed}, case {case}: {type(error).__name__}: {error}") from error
    assert refused > cases / 20
    print(f"{name}: {cases:,} damaged files, {refused:,} refused")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # sums of damaged values overflow
def test_damage_is_an_error_or_harmless(name: str, tmp_path: Path) -> None:
    _run(name, 60, 1, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_much_damage_is_an_error_or_harmless(name: str, tmp_path: Path) -> None:
    _run(name, CASES[name], 2, tmp_path)
