"""Metrics against independent computations, and intervals that know about documents."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
import torch

from train.data.corpus import load_corpus
from train.data.windows import Split, VectorStore, split_windows
from train.evaluation.baselines import linear_average
from train.evaluation.metrics import Estimate, RowScores, _percentiles, bootstrap, bootstrap_all, score_rows, summarise


@pytest.fixture(scope="module")
def split() -> Split:
    """A small synthetic corpus, split by documents."""
    corpus = load_corpus("synthetic", windows=1000, dim=16)
    usable = np.ones(len(corpus.values), bool)
    return split_windows(corpus, usable, VectorStore(corpus.values, "cpu"), validation=0.3)


def test_scores_do_not_depend_on_batching(split: Split) -> None:
    a = score_rows(linear_average, split.validation)
    assert len(a.cosine) > 256
    contexts, targets = split.validation.batch(split.validation.starts)
    mean = contexts.double().mean(1)
    expected = torch.nn.functional.cosine_similarity(mean, targets.double(), dim=1)
    np.testing.assert_allclose(a.cosine, expected.numpy(), atol=1e-6)
    margin = summarise(a, split.validation, {}).margin.value
    assert margin == pytest.approx(float((a.cosine - a.cosine_to_last).mean()))


def test_interval_over_documents_is_wider_than_over_windows() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 40)
    values = rng.standard_normal(30)[groups] + 0.1 * rng.standard_normal(1200)
    by_document = bootstrap(values, groups)
    by_window = bootstrap(values, np.arange(1200))
    assert by_document.low < values.mean() < by_document.high
    expected = 2 * 1.96 * np.std([values[groups == g].mean() for g in range(30)]) / np.sqrt(30)
    assert by_document.high - by_document.low == pytest.approx(expected, rel=0.15)
    assert by_document.high - by_document.low > 4 * (by_window.high - by_window.low)
    assert bootstrap_all({"other": -values, "same": values}, groups)["same"] == by_document


def test_shares_over_the_thresholds_are_counted(split: Split) -> None:
    """A cosine at a threshold is not over it."""
    cosine = np.array([0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 1.0])
    windows = split.validation.sample(10)
    found = summarise(RowScores(cosine, 2 - 2 * cosine, cosine - 0.1), windows, {})
    assert found.above_threshold == {"0.5": 0.8, "0.6": 0.6, "0.7": 0.4, "0.8": 0.2}
    assert (found.windows, found.mse) == (10, pytest.approx(2 - 2 * cosine.mean()))
    assert found.margin.value == pytest.approx(0.1)


def test_interval_holds_95_of_100_resamples_of_documents() -> None:
    """Drawn here with the same numbers, window by window; documents of other sizes weigh as much as their windows."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(12) * 3, [1, 7, 2, 4, 20, 3, 1, 5, 9, 2, 2, 6])
    values = rng.standard_normal(len(groups))
    found = bootstrap(values, groups)
    draws = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), size=1000)
    documents = [values[groups == group] for group in np.unique(groups)]
    means = [np.concatenate([np.tile(d, n) for d, n in zip(documents, draw, strict=True)]).mean() for draw in draws]
    assert (found.low, found.high) == pytest.approx(np.percentile(means, _percentiles(12)), rel=1e-9)
    assert found.value == values.mean()


@pytest.mark.parametrize(("documents", "student"), [(6, 2.5706), (12, 2.2010), (20, 2.0930), (101, 1.9840)])
def test_intervals_of_few_documents_are_as_wide_as_a_table_of_student_says(documents: int, student: float) -> None:
    low, high = _percentiles(documents)
    points = (-NormalDist().inv_cdf(low / 100), NormalDist().inv_cdf(high / 100))
    assert points == pytest.approx([student * (documents / (documents - 1)) ** 0.5] * 2, rel=2e-3)


@pytest.mark.parametrize("documents", [6, 20])
def test_the_intervals_of_few_documents_hold_the_mean_as_often_as_they_say(documents: int) -> None:
    """By 1,000 samples of documents whose mean is known: some 840 and 910 with the percentiles 2.5 and 97.5."""
    values = np.random.default_rng(0).standard_normal((1000, documents))
    found = bootstrap_all({str(i): row for i, row in enumerate(values)}, np.arange(documents))
    assert 920 <= sum(estimate.low <= 0 <= estimate.high for estimate in found.values()) <= 970


def test_figures_are_written_under_their_names(split: Split) -> None:
    windows = split.validation.sample(2)
    mrr, hit = Estimate(0.5, 0.25, 0.75, 9), Estimate(0.125, 0.0625, 0.5)
    found = summarise(
        RowScores(*np.array([[0.5, 1.0], [0.25, 0.75], [0.25, 0.5]])), windows, {"mrr": mrr, "hit@5": hit}
    )
    assert found.cosine.documents == len(np.unique(windows.groups))
    cosine, margin = (
        {"value": e.value, "low": e.low, "high": e.high, "documents": e.documents} for e in (found.cosine, found.margin)
    )
    assert found.to_dict() == {
        "windows": 2,
        "cosine": cosine,
        "mse": 0.5,
        "margin": margin,
        "above_threshold": {"0.5": 0.5, "0.6": 0.5, "0.7": 0.5, "0.8": 0.5},
        "hits": {"hit@5": 0.125},
        "mrr": 0.5,
        "retrieval": {
            "mrr": {"value": 0.5, "low": 0.25, "high": 0.75, "documents": 9},
            "hit@5": {"value": 0.125, "low": 0.0625, "high": 0.5, "documents": None},
        },
    }
    assert (str(mrr), hit.short()) == ("0.5000 [0.2500, 0.7500]", "0.125 [0.062, 0.500]")
