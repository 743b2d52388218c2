"""The ranking loss against a dense softmax, its memory, the start that it fits, and a run that is judged by MRR."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lvm_runtime.artifact.config import make_config
from lvm_runtime.errors import InvalidInput
from lvm_runtime.models import build_model
from train import ranking as ranking_module
from train.__main__ import make_parser, options_from
from train.data.corpus import load_corpus
from train.data.windows import Split, VectorStore, WindowSet, split_windows
from train.distributed import Processes
from train.evaluation.baselines import recency_average
from train.evaluation.retrieval import rank_rows
from train.loop import Trainer
from train.options import RETRIEVAL, TrainOptions
from train.ranked_start import start_ranked
from train.ranking import CorpusRanking
from train.run import train

SMALL = {
    "lstm": {"hidden_dim": 32},
    "gru": {"hidden_dim": 32, "num_layers": 2},
    "transformer": {"hidden_dim": 32, "num_layers": 2, "num_heads": 4, "ffn_dim": 64},
}


def windows_of(vectors: np.ndarray, resident: bool = True) -> WindowSet:
    """Return the windows of documents of 12 vectors, of which the second has no training windows."""
    starts = torch.tensor([d * 12 + i for d in range(len(vectors) // 12) if d != 1 for i in range(7)])
    store = VectorStore(vectors, "cpu", resident_bytes=1 << 30 if resident else 0)
    return WindowSet(store, starts, starts.numpy() // 12, 5)


def dense_loss(predictions: torch.Tensor, windows: WindowSet, starts: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the loss by one softmax over all rows, other documents than the training ones masked."""
    everything = F.normalize(windows.store.rows(torch.arange(len(windows.store))), dim=1).double()
    logits = predictions.double() @ everything.T / temperature
    barred = torch.zeros_like(logits, dtype=torch.bool)
    barred[:, 12:24] = True
    barred[torch.arange(len(starts)).unsqueeze(1), starts.unsqueeze(1) + torch.arange(5)] = True
    return F.cross_entropy(logits.masked_fill(barred, -torch.inf), starts + 5, reduction="none")


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((480, 16)).astype(np.float32)


@pytest.mark.parametrize("resident", [True, False], ids=["resident", "mapped"])
@pytest.mark.parametrize("logits", [1 << 22, 1], ids=["one block", "many blocks"])
def test_loss_and_gradient_are_those_of_a_dense_softmax(
    vectors: np.ndarray, resident: bool, logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking_module, "_LOGITS", logits)
    monkeypatch.setattr(ranking_module, "_LEAST_BLOCK", 64)
    windows = windows_of(vectors, resident)
    starts = windows.starts[::9]
    ranking = CorpusRanking(windows, 0.05)
    assert len(ranking.rows) == 480 - 12
    found = []
    for loss in (ranking, None):
        predictions = F.normalize(torch.randn(len(starts), 16, generator=torch.Generator().manual_seed(1)), dim=1)
        predictions.requires_grad_()
        _, targets = windows.batch(starts)
        rows = loss(predictions, starts, targets) if loss else dense_loss(predictions, windows, starts, 0.05)
        (rows * torch.arange(1, len(starts) + 1)).sum().backward()
        found.append((rows.detach().double(), predictions.grad))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-3)


def test_a_sample_estimates_the_whole_and_is_new_for_each_step(vectors: np.ndarray) -> None:
    windows = windows_of(vectors)
    starts = windows.starts[::9]
    _, targets = windows.batch(starts)
    predictions = F.normalize(torch.randn(len(starts), 16, generator=torch.Generator().manual_seed(1)), dim=1)
    whole = CorpusRanking(windows, 0.5)(predictions, starts, targets).mean()
    sampled = CorpusRanking(windows, 0.5, limit=60, seed=3)
    losses = torch.stack([sampled(predictions, starts, targets, step).mean() for step in range(200)])
    assert abs(losses.mean() - whole) < 0.02
    assert losses.std() > 1e-4
    assert sampled(predictions, starts, targets, 7).mean() == losses[7], "a run that is taken up draws the same"
    assert all(len(sampled._sample(step).unique()) == 60 for step in range(5))


def test_each_step_of_a_run_draws_by_its_number(vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    draws: list[int] = []
    honest = CorpusRanking._sample
    monkeypatch.setattr(CorpusRanking, "_sample", lambda self, draw: draws.append(draw) or honest(self, draw))
    options = TrainOptions(model="amn", loss="ranking", candidates=60, sizes={"hidden_dim": 8}, device="cpu")
    subject = Trainer(build_model(options.config(16), seed=0), windows_of(vectors), options, Processes())
    for _ in range(2):
        subject.train_epoch()
    assert draws == list(range(2 * subject.steps))


@pytest.fixture(scope="module")
def split() -> Split:
    corpus = load_corpus("bundled")
    usable = np.ones(len(corpus.values), bool)
    return split_windows(corpus, usable, VectorStore(corpus.values, "cpu", normalize=True))


@pytest.mark.parametrize("architecture", SMALL)
def test_ranked_start_finds_more_than_the_recency_average(split: Split, architecture: str) -> None:
    """On real vectors and the windows that it is fitted to; the network is as wide as they are."""
    windows = WindowSet(split.train.store, split.train.starts[:900], split.train.groups[:900], 5)
    sizes = SMALL[architecture] | {"hidden_dim": 384, "num_layers": 2}
    model = build_model(make_config(architecture, dim=384, **sizes), seed=0)
    found = start_ranked(model, windows, CorpusRanking(windows, 0.05), cosine_weight=0.0, seed=0)
    assert found.epochs > 0

    def average(contexts: torch.Tensor) -> torch.Tensor:
        return recency_average(contexts, 0.3)

    ranks = rank_rows({"model": model.eval(), "average": average}, windows, 400)
    assert (1 / ranks["model"].rank).mean() > (1 / ranks["average"].rank).mean() + 0.003


@pytest.mark.parametrize("architecture", RETRIEVAL)
def test_recipe_runs_for_every_architecture_and_keeps_the_epoch_with_the_best_rank(
    tmp_path: Path, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []
    monkeypatch.setattr(Trainer, "end_epoch", lambda self, judged: told.append(judged))
    line = ["--model", architecture, "--data", "synthetic", "--recipe", "retrieval", "--windows", "2000", "--dim", "24"]
    sizes = SMALL.get(architecture, {"hidden_dim": 32})
    line += itertools.chain.from_iterable(("--set", f"{name}={value}") for name, value in sizes.items())
    options = options_from(make_parser().parse_args([*line, "--device", "cpu", "--out", str(tmp_path / "model")]))
    assert options.sizes.get("recency", False) == (architecture == "amn")
    lines: list[str] = []
    result = train(options, lines.append)
    ranks = [record["val_mrr"] for record in result.history]
    assert [record["epoch"] for record in result.history] == list(range(options.epochs + 1))
    assert result.best_epoch == int(np.argmax(ranks))
    assert told == ranks[1:]
    assert result.validation.metrics.mrr == pytest.approx(max(ranks), abs=1e-4)
    assert any("ranking over" in line for line in lines)
    assert ranks[0] > 0.8 * result.prepared.best_mrr, "the start is what is averaged and judged"


def test_cosine_weight_moves_a_model_towards_cosine(tmp_path: Path) -> None:
    cosines = []
    for weight in (0.0, 20.0):
        recipe = RETRIEVAL["amn"] | {"cosine_weight": weight, "judge": "both"}
        recipe |= {"sizes": {"hidden_dim": 32, "recency": True}}
        options = TrainOptions(
            model="amn", data="synthetic", windows=2000, dim=24, device="cpu", out=tmp_path / str(weight), **recipe
        )
        result = train(options, lambda line: None)
        sums = [record["val_cosine"] + record["val_mrr"] for record in result.history]
        assert result.best_epoch == int(np.argmax(sums))
        cosines.append(result.history[-1]["val_cosine"])
    assert cosines[1] > cosines[0] + 0.005


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"start": "ranked"}, "ranked with --loss ranking only"),
        ({"loss": "ranking", "compile": True}, "none with --loss ranking"),
        ({"judge": "rank"}, "one of cosine, mrr, both"),
        ({"vector_dropout": 1.0}, "vector_dropout is 1.0"),
        ({"candidates": -1}, "candidates is -1"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_slips_are_refused(values: dict, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        TrainOptions(model="amn", **values)
