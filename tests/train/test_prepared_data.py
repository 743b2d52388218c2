"""The data of a run are those that its options ask for, also when an earlier run's are at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lvm_runtime.errors import InvalidInput
from train.evaluation.baselines import mean_vector
from train.options import TrainOptions
from train.prepared_data import PreparedData, prepare


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> TrainOptions:
    """Return options of a corpus of 30 documents whose vectors have lengths of about 2."""
    path = tmp_path_factory.mktemp("data") / "corpus.npz"
    vectors = np.random.default_rng(0).standard_normal((240, 6)).astype(np.float32)
    np.savez(path, vectors=vectors, doc_ids=np.arange(240) // 8)
    return TrainOptions(model="amn", data=str(path), device="cpu", split="random", test=0.1)


@pytest.fixture(scope="module")
def prepared(options: TrainOptions) -> PreparedData:
    return prepare(options, "cpu", lambda line: None)


def _random(prepared: PreparedData) -> list[float]:
    return prepared.baselines.predictors["random"](torch.ones(1, 5, 6))[0].tolist()


def _documents(prepared: PreparedData) -> list[int]:
    return np.unique(prepared.split.validation.groups).tolist()


def _lengths(prepared: PreparedData) -> bool:
    return bool(torch.allclose(prepared.split.train.store.rows(torch.arange(240)).norm(dim=1), torch.ones(240)))


CASES: dict[str, tuple[dict[str, Any], Callable[[PreparedData], Any], Any]] = {
    "seed of the split": ({"seed": 1}, _documents, None),
    "seed of the baselines": ({"seed": 1}, _random, None),
    "split": ({"split": "last"}, _documents, [27, 28, 29]),
    "validation": ({"validation": 0.3}, lambda m: len(_documents(m)), 9),
    "test": ({"test": 0.0}, lambda m: (len(m.split.test), m.test_scores), (0, {})),
    "normalize": ({"normalize": True}, _lengths, True),
    "resident bytes": ({"resident_bytes": 0}, lambda m: type(m.split.train.store._held), np.ndarray),
    "queries": ({"queries": 5}, lambda m: {len(s.ranks.rank) for s in m.scores.values()}, {5}),
    "context length": ({"context_length": 3}, lambda m: m.split.train.context_length, 3),
}


@pytest.mark.parametrize("case", CASES)
def test_every_option_of_the_data_counts(case: str, options: TrainOptions, prepared: PreparedData) -> None:
    values, look, expected = CASES[case]
    found = prepare(replace(options, **values), "cpu", lambda line: None, prepared)
    assert look(found) != look(prepared)
    assert expected is None or look(found) == expected


def test_baselines_are_fitted_on_one_side_and_scored_on_the_others(prepared: PreparedData) -> None:
    split, found = prepared.split, prepared.baselines.predictors
    mean = mean_vector(split.train)
    assert torch.equal(found["mean vector"](torch.ones(1, 5, 6))[0], mean)
    for scores, side in ((prepared.scores, split.validation), (prepared.test_scores, split.test)):
        assert list(scores) == list(found)
        expected = F.cosine_similarity(side.batch(side.starts)[1], mean, dim=1).double()
        np.testing.assert_allclose(scores["mean vector"].rows.cosine, expected, atol=1e-6)


def test_vectors_that_no_predictor_takes_are_trained_on_only_at_length_1(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((240, 6)).astype(np.float32)
    np.savez(tmp_path / "long.npz", vectors=rows * 1e17, doc_ids=np.arange(240) // 8)
    options = TrainOptions(model="amn", data=str(tmp_path / "long.npz"))
    with pytest.raises(InvalidInput, match=r"row 0 has norm .*; expected at most 1e\+06; --normalize divides"):
        prepare(options, "cpu", lambda line: None)
    assert _lengths(prepare(replace(options, normalize=True), "cpu", lambda line: None))


def test_the_same_data_are_taken_over(options: TrainOptions, prepared: PreparedData) -> None:
    same = prepare(replace(options, model="gru", epochs=3, batch_size=7), "cpu", lambda line: None, prepared)
    assert same is prepared
    anew = prepare(options, "cpu", lambda line: None)
    assert anew is not prepared
    assert (_documents(anew), _random(anew)) == (_documents(prepared), _random(prepared))


def test_the_size_of_the_synthetic_corpus_counts() -> None:
    small = TrainOptions(model="amn", data="synthetic", windows=80, dim=8, sizes={"hidden_dim": 8})
    both = [prepare(o, "cpu", lambda line: None) for o in (small, replace(small, seed=1))]
    assert {m.corpus.dim for m in both} == {8}
    assert {len(m.split.train) + len(m.split.validation) for m in both} == {80}
    assert both[0].digest != both[1].digest


@pytest.mark.parametrize("ids", [True, False], ids=["documents", "shuffled windows"])
def test_copies_of_training_windows_among_held_out_ones_are_told(ids: bool, tmp_path: Path) -> None:
    """Half of the validation documents are copies, or windows that say not where they come from lie in any order."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((20, 12, 6)).astype(np.float32)
    vectors[19] = vectors[0]
    if ids:
        np.savez(tmp_path / "c.npz", vectors=vectors.reshape(-1, 6), doc_ids=np.arange(240) // 12)
    else:
        windows = np.stack([document[start : start + 6] for document in vectors[:19] for start in range(7)])
        windows = windows[rng.permutation(len(windows))]
        np.savez(tmp_path / "c.npz", contexts=windows[:, :5], targets=windows[:, 5])
    said: list[str] = []
    options = TrainOptions(model="amn", data=str(tmp_path / "c.npz"), device="cpu")
    prepare(options, "cpu", said.append)
    (warning,) = [line for line in said if "copies of training windows" in line]
    assert 30 < float(warning.split("WARNING: ")[1].split("%")[0]) <= (50 if ids else 100)
    if ids:
        for noise, copies in ((1e-3, {"validation": 0.5}), (0.3, {})):  # another batch of an encoder, and another text
            vectors[19] = vectors[0] + noise * rng.standard_normal((12, 6))
            np.savez(tmp_path / "c.npz", vectors=vectors.reshape(-1, 6), doc_ids=np.arange(240) // 12)
            said.clear()
            assert prepare(options, "cpu", said.append).copies == copies
            assert any("copies of training windows" in line for line in said) is bool(copies)


@pytest.mark.parametrize(("every", "share"), [(6, 5 / 14), (3, 4 / 14), (2, 0)])
@pytest.mark.parametrize("noise", [0, 1e-3], ids=["to the bit", "nearly"])
def test_a_copied_document_with_changed_vectors_is_told(tmp_path: Path, every: int, share: float, noise: float) -> None:
    """Of the second of two validation documents, each `every`-th vector is another one; 7 of the 14 windows are its."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((20, 12, 6)).astype(np.float32)
    kept = np.arange(12) % every != every - 1
    vectors[19, kept] = vectors[0, kept] + noise * rng.standard_normal((kept.sum(), 6))
    np.savez(tmp_path / "c.npz", vectors=vectors.reshape(-1, 6), doc_ids=np.arange(240) // 12)
    found = prepare(TrainOptions(model="amn", data=str(tmp_path / "c.npz"), device="cpu"), "cpu", lambda line: None)
    assert found.copies == ({"validation": pytest.approx(share)} if share else {})
