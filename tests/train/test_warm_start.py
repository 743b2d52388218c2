"""Starting at a baseline: the models begin at or above the linear average, and the run counts that as epoch 0."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lvm_runtime.artifact.config import make_config
from lvm_runtime.errors import InvalidInput
from lvm_runtime.models import build_model
from train.data.corpus import load_corpus
from train.data.windows import Split, VectorStore, split_windows
from train.evaluation.baselines import linear_average
from train.evaluation.metrics import score_rows
from train.options import TrainOptions
from train.run import train
from train.warm_start import start_at_baseline

SIZES = {
    "lstm": {"hidden_dim": 48, "num_layers": 2},
    "gru": {"hidden_dim": 48, "num_layers": 3},
    "transformer": {"hidden_dim": 48, "num_layers": 2, "num_heads": 4, "ffn_dim": 64},
}
OTHERS = tuple(SIZES)


def data(dim: int, windows: int = 3000, context_length: int = 5) -> Split:
    """Return a synthetic corpus, split."""
    corpus = load_corpus("synthetic", windows=windows, dim=dim, context_length=context_length)
    usable = np.ones(len(corpus.values), bool)
    return split_windows(corpus, usable, VectorStore(corpus.values, "cpu"), context_length=context_length)


def cosine(predict: object, split: Split) -> float:
    """Return the mean validation cosine."""
    return float(score_rows(predict, split.validation).cosine.mean())  # type: ignore[arg-type]


@pytest.mark.parametrize("architecture", OTHERS)
@pytest.mark.parametrize(
    ("dim", "context_length"),
    [(32, 5), pytest.param(48, 5, marks=pytest.mark.soak), (23, 3)],
    ids=["narrow", "square", "odd"],
)
def test_start_is_above_the_linear_average(architecture: str, dim: int, context_length: int) -> None:
    split = data(dim, context_length=context_length)
    model = build_model(
        make_config(architecture, dim=dim, context_length=context_length, **SIZES[architecture]), seed=0
    )
    before = cosine(model.eval(), split)
    found = start_at_baseline(model, split.train)
    after, average = cosine(model.eval(), split), cosine(linear_average, split)
    assert before < 0.2 < average < after
    assert found is not None
    assert found.cosine == pytest.approx(after, abs=0.02)  # both on documents that the fit has not seen


def test_little_data_leaves_the_average() -> None:
    """Where a free fit is worse than the average, the start, which is drawn towards the average, is not."""
    split = data(96, windows=800)
    model = build_model(make_config("lstm", dim=96, hidden_dim=128), seed=0)
    start_at_baseline(model, split.train)
    contexts, targets = split.train.batch(split.train.starts)
    free = torch.linalg.lstsq(contexts.mean(dim=1), targets).solution
    average = cosine(linear_average, split)
    assert cosine(lambda x: x.mean(dim=1) @ free, split) < average - 0.01
    assert cosine(model.eval(), split) > average


@pytest.mark.parametrize("architecture", OTHERS)
def test_fewer_units_than_dimensions_keep_the_leading_directions(architecture: str) -> None:
    """A corpus of 16 directions in 64 dimensions goes through 48 units; so does the start."""
    split = data(64)
    basis = torch.linalg.qr(torch.randn(64, 16, generator=torch.Generator().manual_seed(0)))[0]
    store = split.train.store
    store._held = torch.nn.functional.normalize(store.rows(torch.arange(len(store)))[:, :16] @ basis.T, dim=1)
    model = build_model(make_config(architecture, dim=64, **SIZES[architecture]), seed=0)
    start_at_baseline(model, split.train)
    assert cosine(model.eval(), split) > cosine(linear_average, split)


def test_start_depends_on_the_seed_alone() -> None:
    split = data(16, windows=800)
    states = []
    for seed in (0, 0, 1):
        model = build_model(make_config("gru", dim=16, hidden_dim=24), seed=seed)
        start_at_baseline(model, split.train, seed=seed)
        states.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_amn_is_left_as_it_is() -> None:
    split = data(16, windows=800)
    model = build_model(make_config("amn", dim=16), seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert start_at_baseline(model, split.train) is None
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("recipe", [{"start": "baseline"}, {"start": "ranked", "loss": "ranking"}], ids=str)
@pytest.mark.parametrize("architecture", OTHERS)
def test_vectors_that_are_all_the_same_are_refused(architecture: str, recipe: dict[str, Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "same.npz", vectors=np.ones((200, 8), np.float32), doc_ids=np.repeat(np.arange(20), 10))
    alike = TrainOptions(
        model=architecture, data=str(tmp_path / "same.npz"), out=tmp_path / "out", sizes=SIZES[architecture], **recipe
    )
    with pytest.raises(InvalidInput, match=r"windows all hold the same vectors.*give --start default"):
        train(alike, say=lambda line: None)


def options(out: Path, **values: object) -> TrainOptions:
    """Return options of a small run from a baseline."""
    base: dict = {"model": "lstm", "data": "synthetic", "windows": 2000, "dim": 16, "epochs": 2, "device": "cpu"}
    return TrainOptions(out=out, start="baseline", sizes={"hidden_dim": 24}, **(base | values))


def test_epoch_0_counts(tmp_path: Path) -> None:
    """A rate that ruins the model: what is kept is the start."""
    lines: list[str] = []
    result = train(options(tmp_path / "ruined", learning_rate=0.3), lines.append)
    assert result.best_epoch == 0
    assert [record["epoch"] for record in result.history] == [0, 1, 2]
    assert result.validation.metrics.cosine.value == pytest.approx(result.history[0]["val_cosine"], abs=1e-6)
    assert result.validation.gain.value > 0
    assert any(line.startswith("epoch 0/2  before training") for line in lines)
    saved = json.loads((tmp_path / "ruined.run" / "result.json").read_text())
    assert saved["best_epoch"] == 0


def test_resumed_run_equals_a_whole_one(tmp_path: Path) -> None:
    whole = train(options(tmp_path / "whole"), lambda line: None)
    train(options(tmp_path / "steps", epochs=1), lambda line: None)
    resumed = train(options(tmp_path / "steps", resume=True), lambda line: None)
    assert resumed.artifact.manifest.weights.sha256 == whole.artifact.manifest.weights.sha256
    assert [r["val_cosine"] for r in resumed.history] == [r["val_cosine"] for r in whole.history]
