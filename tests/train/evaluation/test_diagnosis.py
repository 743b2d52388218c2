"""A corpus's diagnosis against independent sums, and its warnings where there is nothing to learn."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lvm_runtime.corpus.corpus import Corpus, of_documents
from lvm_runtime.errors import InvalidInput
from train.data.corpus import load_corpus
from train.data.windows import VectorStore
from train.diagnose import command
from train.evaluation.diagnosis import Diagnosis, diagnose


def look(corpus: Corpus) -> Diagnosis:
    return diagnose(corpus, VectorStore(corpus.values, "cpu"), context_length=5)


def test_figures_against_independent_sums() -> None:
    corpus = load_corpus("bundled")
    found = look(corpus)
    unit = corpus.values.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    same = corpus.doc_ids[1:] == corpus.doc_ids[:-1]
    assert found.coherence == pytest.approx((unit[1:] * unit[:-1]).sum(axis=1)[same].mean(), abs=1e-6)
    starts = corpus.starts(6)
    by_position = [(unit[starts + t] * unit[starts + 5]).sum(axis=1).mean() for t in range(5)]
    np.testing.assert_allclose(found.by_position, by_position, atol=1e-6)
    assert found.duplicates == pytest.approx(1 - len(np.unique(corpus.values, axis=0)) / len(corpus.values))
    lengths = np.unique(corpus.doc_ids, return_counts=True)[1]
    assert found.lengths == (lengths.min(), *np.percentile(lengths, [25, 50, 75]).astype(int), lengths.max())
    assert not found.warnings()


def test_shuffled_rows_are_nothing_to_learn_from() -> None:
    corpus = load_corpus("bundled")
    order = np.random.default_rng(0).permutation(len(corpus.values))
    warnings = look(replace(corpus, values=corpus.values[order])).warnings()
    assert [("hardly more alike" in w, "NOTHING TO LEARN" in w) for w in warnings] == [(True, False), (False, True)]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_duplicates_and_short_documents_are_counted(dtype: type) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((100, 7)).astype(dtype)
    vectors[40:50] = vectors[:10]
    ids = np.repeat(np.arange(25), 4)
    found = look(of_documents("small", vectors, ids))
    assert found.duplicates == pytest.approx(0.1)
    assert (found.windows, found.short_documents, found.by_position) == (0, 1.0, ())
    assert any("too short" in warning for warning in found.warnings())
    assert any("10.0% of the rows are copies of earlier ones" in warning for warning in found.warnings())


@pytest.mark.parametrize("length", ["0", "-1"])
def test_a_context_without_vectors_is_refused(length: str) -> None:
    with pytest.raises(InvalidInput, match=f"context_length is {length}, expected a whole number of 1 or more"):
        command(["bundled", "--context-length", length])


def test_a_corpus_without_vectors_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "empty.npz", vectors=np.empty((0, 8), np.float32))
    with pytest.raises(InvalidInput, match=r"empty\.npz: holds no vectors"):
        command([str(tmp_path / "empty.npz")])


def test_command_prints_the_figures_as_json(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((60, 8)).astype(np.float32)
    np.savez(tmp_path / "noise.npz", vectors=vectors, doc_ids=np.repeat(np.arange(6), 10))
    line = [sys.executable, "-m", "train.diagnose", str(tmp_path / "noise.npz"), "--json"]
    found = json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout)
    assert found["documents"] == 6
    assert any("hardly more alike" in line for line in found["warnings"])
