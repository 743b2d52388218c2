"""Ranks and contrastive accuracy against a full sort, the baselines, and what is said of a model beside them."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lvm_runtime.corpus.ranks import CANDIDATE_BLOCK
from train.data.corpus import load_corpus
from train.data.windows import Split, VectorStore, WindowSet, split_windows
from train.evaluation.baselines import (
    DECAYS,
    choose_decay,
    fit_baselines,
    linear_average,
    mean_vector,
    persistence,
    recency_average,
    recency_weights,
)
from train.evaluation.evaluate import Difference, evaluate, figures, verdict
from train.evaluation.metrics import Estimate, Predict, bootstrap, score_rows
from train.evaluation.retrieval import rank_rows, score
from train.evaluation.ridge import fit_ridge


@pytest.fixture(scope="module")
def split() -> Split:
    """A small synthetic corpus, split by documents."""
    corpus = load_corpus("synthetic", windows=400, dim=16)
    usable = np.ones(len(corpus.values), bool)
    return split_windows(corpus, usable, VectorStore(corpus.values, "cpu"), validation=0.3)


class Last(nn.Module):
    """A model that copies, and one that blends in noise of a given length."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.noise = noise

    def forward(self, contexts: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        noise = F.normalize(torch.randn(contexts.shape[0], contexts.shape[2], generator=generator), dim=1)
        return F.normalize(contexts[:, -1] + self.noise * noise, dim=1)


def test_ranks_and_contrastive_accuracy_against_a_full_sort(split: Split) -> None:
    windows = split.validation
    found = rank_rows({"average": linear_average, "last": persistence}, windows)
    assert len(found["average"].rank) == len(windows)
    everything = windows.store.rows(torch.arange(len(windows.store))).double()
    contexts, _ = windows.batch(windows.starts)
    for name, predict in (("average", linear_average), ("last", persistence)):
        for i in range(0, len(windows), 17):
            start = int(windows.starts[i])
            target = start + 5
            scores = everything @ predict(contexts[i : i + 1])[0].double()
            nearer = scores > scores[target] - 1e-6
            rivals = [j for j in range(len(scores)) if nearer[j] and j not in range(start, target + 1)]
            assert found[name].rank[i] == len(rivals) + 1
            others = [j for j in range(len(scores)) if j not in (target - 1, target, target + 1)]
            expected = np.mean([not nearer[j] for j in others])
            assert found[name].farther[i] == pytest.approx(expected, abs=1e-12)


def test_queries_are_spaced_and_candidates_can_be_limited(split: Split) -> None:
    windows = split.validation
    few = rank_rows({"average": linear_average}, windows, 7)["average"]
    assert (few.groups[0], few.groups[-1]) == (windows.groups[0], windows.groups[-1])
    begin, end = int(windows.starts.min()), int(windows.starts.max()) + 6
    inside = rank_rows({"average": linear_average}, windows, 7, rows=(begin, end))["average"]
    assert (inside.rank <= few.rank).all()
    assert (inside.rank < few.rank).any()


def test_a_mapped_corpus_of_several_blocks_gives_the_same_ranks() -> None:
    corpus = load_corpus("synthetic", windows=2 * CANDIDATE_BLOCK, dim=8)
    usable = np.ones(len(corpus.values), bool)
    ranks = []
    for limit in (1 << 30, 0):
        part = split_windows(corpus, usable, VectorStore(corpus.values, "cpu", resident_bytes=limit)).validation
        ranks.append(rank_rows({"average": linear_average}, part, 50)["average"].rank)
    np.testing.assert_array_equal(*ranks)


def test_a_perfect_predictor_is_always_first(split: Split) -> None:
    contexts, targets = split.validation.batch(split.validation.starts)
    lookup = {tuple(c.flatten().tolist()): t for c, t in zip(contexts, targets, strict=True)}

    def perfect(batch: torch.Tensor) -> torch.Tensor:
        return torch.stack([lookup[tuple(c.flatten().tolist())] for c in batch])

    metrics = score({"perfect": perfect}, split.validation)["perfect"].metrics(split.validation)
    assert metrics.cosine.value == pytest.approx(1, abs=1e-6)
    assert {name: found.value for name, found in metrics.retrieval.items()} == {
        "hit@1": 1.0, "hit@5": 1.0, "hit@10": 1.0, "mrr": 1.0, "contrastive": 1.0,
    }  # fmt: skip


def test_a_prediction_that_is_not_finite_finds_nothing(split: Split) -> None:
    """No comparison with NaN holds, so that nothing would rank before the target."""
    found = rank_rows({"": lambda contexts: F.normalize(contexts[:, -1] * torch.inf, dim=1)}, split.validation)[""]
    assert (found.rank == len(split.validation.store) - 5).all()
    assert not found.farther.any()


def test_baselines(split: Split) -> None:
    baselines = fit_baselines(split.train)
    assert list(baselines.predictors) == [
        "linear average", "persistence", "recency average", "ridge map", "mean vector", "random",
    ]  # fmt: skip
    scores = score(baselines.predictors, split.validation)
    means = {name: float(s.rows.cosine.mean()) for name, s in scores.items()}
    assert means["linear average"] > means["persistence"] > means["random"]
    targets = split.train.store.rows(split.train.starts + 5).double().mean(0)
    torch.testing.assert_close(mean_vector(split.train), F.normalize(targets, dim=0).float())
    one = split.validation.batch(split.validation.starts[:1])[0]
    random = [fit_baselines(split.train, seed=seed).predictors["random"](one) for seed in (0, 0, 1)]
    assert torch.equal(random[0], random[1])
    assert not torch.equal(random[0], random[2])


def test_recency_average_lies_between_the_last_vector_and_the_average(split: Split) -> None:
    torch.testing.assert_close(recency_weights(0.5, 3), torch.tensor([1.0, 2.0, 4.0]) / 7)
    contexts, _ = split.train.batch(split.train.starts)
    torch.testing.assert_close(recency_average(contexts, 1.0), linear_average(contexts))
    torch.testing.assert_close(recency_average(contexts, 1e-9), persistence(contexts))


def test_decay_is_the_one_that_the_data_was_made_with() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((600, 24)).astype(np.float32)
    weights = recency_weights(0.45, 5).numpy()
    for row in range(5, len(vectors)):  # each vector is the weighted average of the five before it, and noise
        mean = weights @ (vectors[row - 5 : row] / np.linalg.norm(vectors[row - 5 : row], axis=1, keepdims=True))
        vectors[row] = mean / np.linalg.norm(mean) + 0.3 * vectors[row]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    windows = WindowSet(VectorStore(vectors, "cpu"), torch.arange(595), np.arange(595) // 50, 5)
    ranks = rank_rows({str(d): partial(recency_average, decay=d) for d in DECAYS}, windows, 500)
    assert choose_decay(windows) == max(DECAYS, key=lambda d: (1 / ranks[str(d)].rank).mean()) == 0.45


def test_ridge_map_finds_a_linear_law_and_solves_its_normal_equations(split: Split) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((3000, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    law = rng.standard_normal((30, 6)).astype(np.float32)
    starts = torch.arange(0, 2994, 6)
    for start in starts.tolist():
        row = vectors[start : start + 5].ravel() @ law
        vectors[start + 5] = row / np.linalg.norm(row)
    windows = WindowSet(VectorStore(vectors, "cpu"), starts, np.arange(len(starts)), 5)
    contexts, targets = windows.batch(starts)
    assert F.cosine_similarity(fit_ridge(windows)(contexts), targets, dim=1).mean() > 0.97

    found = fit_ridge(split.train)
    contexts, targets = (x.double() for x in split.train.batch(split.train.starts))
    inputs, targets = contexts.flatten(1), F.normalize(targets, dim=1)
    sums = contexts.transpose(1, 2).flatten(0, 1)  # the average of least squared error, by its own normal equations
    weights = torch.linalg.lstsq(sums, targets.flatten().unsqueeze(1)).solution[:, 0]
    prior = torch.cat([w * torch.eye(16, dtype=torch.float64) for w in weights])
    products, cross = inputs.T @ inputs, inputs.T @ targets
    penalty = found.penalty * products.diagonal().mean()
    gradient = products @ found.weight.double() - cross + penalty * (found.weight.double() - prior)
    assert gradient.abs().max() < 1e-4 * cross.abs().max()


@pytest.mark.parametrize(
    "judge", [score_rows, lambda predict, windows: rank_rows({"": predict}, windows)], ids=["cosine", "rank"]
)
def test_scores_are_in_full_precision_whatever_torch_was_told_for_training(
    split: Split, judge: Callable[[Predict, WindowSet], object]
) -> None:
    seen: set[tuple[str, bool]] = set()

    def look(contexts: torch.Tensor) -> torch.Tensor:
        kind = getattr(torch.backends.mkldnn, "matmul", None)  # from torch 2.9 on
        precision = torch.get_float32_matmul_precision() if kind is None else kind.fp32_precision
        seen.add((precision, torch.is_autocast_enabled("cpu")))
        return linear_average(contexts)

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu"):
            judge(look, split.validation)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen <= {("highest", False), ("ieee", False), ("none", False)}
    assert seen


def test_what_is_said_of_a_model_beside_its_baselines(split: Split) -> None:
    corpus = load_corpus("synthetic", windows=400, dim=16)
    baselines = score(fit_baselines(split.train).predictors, split.validation)
    found = evaluate(Last(), split.validation, baselines, corpus.doc_ids)
    assert found.versus["cosine"].baseline == max(baselines, key=lambda name: baselines[name].rows.cosine.mean())
    assert verdict(found.versus).count("DOES NOT BEAT") == 2
    best = max(baselines.values(), key=lambda s: float((1 / s.ranks.rank).mean()))
    mine = rank_rows({"model": Last()}, split.validation)["model"]
    expected = (1 / mine.rank).mean() - (1 / best.ranks.rank).mean()
    assert found.versus["mrr"].value.value == pytest.approx(expected, abs=1e-12)
    for metric, difference in found.versus.items():
        if metric != "cosine":
            reached = {name: s.ranks.columns()[metric].mean() for name, s in baselines.items()}
            assert difference.baseline == max(reached, key=lambda name: reached[name]), metric
            expected = mine.columns()[metric].mean() - max(reached.values())
            assert difference.value.value == pytest.approx(expected, abs=1e-12)
    assert len({difference.baseline for difference in found.versus.values()}) > 1, "or one baseline would do for all"
    lines = figures(found, {"ridge map": "penalty 1"})
    assert any("ridge map, penalty 1" in line for line in lines)
    starts = {tuple(m.start() for m in re.finditer(r"(?<=  )\S", line))[-6:] for line in lines[: len(baselines) + 2]}
    assert len(starts) == 1, "each column has its place, two spaces from the one before"
    assert "FITS THE PAST" in lines[-1]
    assert "to the last vector" in lines[-1]


@pytest.mark.parametrize(
    ("documents", "word"),
    [(1, "of ONE document"), (2, "of 2 DOCUMENTS"), (5, "of 5 DOCUMENTS"), (6, "clear of zero")],
)
def test_few_documents_say_nothing_of_others(documents: int, word: str) -> None:
    """Five that are all above zero, and nothing behind it, are one case in 32."""
    rng = np.random.default_rng(0)
    values = 0.1 + 0.01 * rng.standard_normal(60)
    found = Difference("ridge map", bootstrap(values, np.arange(60) % documents))
    assert found.word == word
    assert ("DOES NOT BEAT" not in verdict({"cosine": found, "mrr": found})) is (documents >= 6)
    assert found.to_dict()["documents"] == documents


@pytest.mark.parametrize(
    ("low", "high", "word", "beats"),
    [
        (0.1, 0.3, "clear of zero", True),
        (0.0, 0.3, "not clear of zero", False),
        (-0.1, 0.3, "not clear of zero", False),
        (-0.3, 0.0, "not clear of zero", False),
        (-0.3, -0.1, "BELOW zero", False),
        (0.2, 0.2, "of ONE document", False),
        (-0.2, -0.2, "of ONE document", False),
        (0.0, 0.0, "not clear of zero", False),
    ],
    ids=["above", "from zero", "across", "to zero", "below", "one above", "one below", "no difference"],
)
def test_a_model_beats_a_baseline_where_the_whole_interval_does(
    low: float, high: float, word: str, beats: bool
) -> None:
    found = Difference("ridge map", Estimate((low + high) / 2, low, high))
    other = Difference("persistence", Estimate(0.0, -1.0, 1.0))
    assert found.word == word
    for versus, place in (({"cosine": found, "mrr": other}, 0), ({"cosine": other, "mrr": found}, 1)):
        parts = verdict(versus).split(" and ")
        assert parts[place].startswith("beats" if beats else "DOES NOT BEAT")
        assert parts[place].endswith(f", {word})")
        assert parts[1 - place].startswith("DOES NOT BEAT")


def test_every_interval_is_over_documents(split: Split) -> None:
    """Windows that are all of one document say nothing of others: each interval is its value."""
    every = split.validation
    windows = WindowSet(every.store, every.starts, np.zeros(len(every), np.int64), every.context_length)
    corpus = load_corpus("synthetic", windows=400, dim=16)
    found = evaluate(Last(), windows, score(fit_baselines(split.train).predictors, windows), corpus.doc_ids)
    metrics = found.metrics
    estimates = [metrics.cosine, metrics.margin, *metrics.retrieval.values(), found.gain, *found.offsets.values()]
    estimates += [difference.value for difference in found.versus.values()]
    assert len(estimates) == 3 + 5 + 7 + 6
    for estimate in estimates:
        assert (estimate.low, estimate.high) == pytest.approx((estimate.value,) * 2, abs=1e-9)
