"""The contexts by which exports are proved: random ones, and real ones of a corpus or of the artifact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.commandline import make_parser, open_arguments
from export.source import open_source
from export.verify import BATCH_SIZES, REAL_WINDOWS, SAMPLE_SEED, make_samples
from export.windows import read_windows
from lvm_runtime.artifact.config import CONFIGS
from lvm_runtime.artifact.fingerprint import random_contexts
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends.base import Array
from lvm_runtime.corpus.corpus import BUNDLED, open_corpus
from lvm_runtime.corpus.split import split
from lvm_runtime.errors import InvalidInput
from lvm_runtime.models import save_model
from tests.artifacts import randomised

DIM = 16


def small_artifact(folder: Path, dim: int, real: Array | None = None) -> Path:
    return save_model(randomised("amn", **CONFIGS["amn"].small | {"dim": dim}), folder / "amn", real_contexts=real).path


def test_random_contexts_are_other_ones_than_the_probes(tmp_path: Path) -> None:
    source = open_source(str(small_artifact(tmp_path, DIM)))
    contexts = make_samples(source)[0].contexts
    np.testing.assert_array_equal(contexts, random_contexts(max(BATCH_SIZES), 5, DIM, seed=SAMPLE_SEED))
    probes = source.artifact.read_fingerprint().contexts
    assert np.linalg.norm(contexts.mean(axis=(0, 1)) - probes.mean(axis=(0, 1))) > 0.5  # of another shared direction


def write_corpus(path: Path, dim: int, lengths: list[int]) -> Path:
    ids = np.repeat(np.arange(len(lengths)), lengths).astype(np.int32)
    vectors = np.repeat(ids[:, None], dim, axis=1) + np.arange(len(ids))[:, None] / 1000
    np.savez(path, vectors=vectors.astype(np.float32), doc_ids=ids)
    return path


def test_real_windows_stay_within_the_last_documents(tmp_path: Path) -> None:
    path = write_corpus(tmp_path / "c.npz", 4, [9] * 18 + [3, 8])
    windows = read_windows(path, 4, 5, 100)
    corpus = open_corpus(path, context_length=5)
    held_out = split(corpus, np.ones(len(corpus.values), bool)).validation.groups
    assert {*windows.astype(int).flat} == {*held_out} == {17, 19}  # document 18 is too short
    assert windows.shape == (5 + 4, 5, 4)
    np.testing.assert_array_equal(read_windows(path, 4, 5, 3), windows[[0, 4, 8]])  # evenly spread, ends included


def test_corpus_that_is_given_takes_the_place_of_any_other(tmp_path: Path) -> None:
    """Of the bundled corpus, whose D fits, and of the real probes in the artifact."""
    folder = small_artifact(tmp_path, 384, random_contexts(20, 5, 384))
    corpus = write_corpus(tmp_path / "c.npz", 384, [9] * 20)
    line = ["--model", str(folder), "--data", str(corpus), "--min-overlap", "0.125"]
    _, samples = open_arguments(make_parser("").parse_args(line))
    assert [s.name for s in samples] == ["random", "real"]
    np.testing.assert_array_equal(samples[1].contexts, read_windows(corpus, 384, 5, REAL_WINDOWS))
    search = samples[1].search
    assert search is not None
    assert (search.corpus, search.limit) == ("c.npz", 0.125)


@pytest.mark.parametrize("dim", [384, DIM])
def test_without_a_corpus_real_contexts_are_bundled_ones_or_the_probes(dim: int, tmp_path: Path) -> None:
    probes = random_contexts(20, 5, dim, seed=5)
    samples = make_samples(open_source(str(small_artifact(tmp_path, dim, probes))))
    real = Artifact.load(tmp_path / "amn").read_fingerprint().real
    expected = read_windows(BUNDLED, 384, 5, REAL_WINDOWS) if dim == 384 else real
    np.testing.assert_array_equal(samples[1].contexts, expected)
    assert samples[1].search is None


def test_contexts_that_are_longer_than_bundled_documents_are_the_probes(tmp_path: Path) -> None:
    sizes = CONFIGS["amn"].small | {"dim": 384, "context_length": 80}
    real = random_contexts(20, 80, 384)
    artifact = save_model(randomised("amn", **sizes), tmp_path / "amn", real_contexts=real)
    samples = make_samples(open_source(str(artifact.path)))
    np.testing.assert_array_equal(samples[1].contexts, artifact.read_fingerprint().real)


@pytest.mark.parametrize("unit", [True, False])
def test_corpus_is_divided_by_its_lengths_where_that_of_training_was(unit: bool, tmp_path: Path) -> None:
    trained = {"training": {"options": {"normalize": unit}}}
    artifact = save_model(randomised("amn", **CONFIGS["amn"].small), tmp_path / "amn", provenance=trained)
    vectors = 50 * random_contexts(20, 10, DIM).reshape(-1, DIM)
    vectors[-1] = 0
    np.savez(tmp_path / "c.npz", vectors=vectors, doc_ids=np.repeat(np.arange(20), 10))
    real = make_samples(open_source(str(artifact.path)), tmp_path / "c.npz")[1]
    assert real.search is not None
    expected = vectors[180:185] / (50 if unit else 1)
    for contexts in (real.contexts, real.search.contexts):
        assert contexts.dtype == np.float32
        np.testing.assert_allclose(contexts[0], expected, rtol=1e-5)
    assert not real.contexts[-1, -1].any()


@pytest.mark.parametrize("dim", [3, 5])
def test_corpus_of_another_size_is_refused(tmp_path: Path, dim: int) -> None:
    with pytest.raises(InvalidInput, match="expected"):
        read_windows(write_corpus(tmp_path / "c.npz", 4, [9, 9]), dim, 5, 10)


def test_missing_corpus_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"nowhere\.npz"):
        read_windows(tmp_path / "nowhere.npz", 4, 5, 10)
