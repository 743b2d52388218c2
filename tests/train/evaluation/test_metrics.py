"""Metrics against independent computations, and intervals that know about documents."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from train.data.corpus import load_corpus
from train.data.windows import Split, VectorStore, split_windows
from train.evaluation.baselines import baseline_scores, linear_average, mean_vector
from train.evaluation.metrics import bootstrap, retrieval_ranks, score_rows, summarise, with_retrieval


@pytest.fixture(scope="module")
def split() -> Split:
    """A small synthetic corpus, split by documents."""
    corpus = load_corpus("synthetic", windows=400, dim=16)
    usable = np.ones(len(corpus.values), bool)
    return split_windows(corpus, usable, VectorStore(corpus.values, "cpu"), validation=0.3)


def test_scores_do_not_depend_on_batching(split: Split) -> None:
    a, b = (score_rows(linear_average, split.validation, size) for size in (7, 256))
    np.testing.assert_allclose(a.cosine, b.cosine, atol=1e-6)
    contexts, targets = split.validation.batch(split.validation.starts)
    mean = contexts.double().mean(1)
    expected = torch.nn.functional.cosine_similarity(mean, targets.double(), dim=1)
    np.testing.assert_allclose(a.cosine, expected.numpy(), atol=1e-6)
    margin = summarise(a, split.validation).margin.value
    assert margin == pytest.approx(float((a.cosine - a.cosine_to_last).mean()))


def test_ranks_against_a_full_sort(split: Split) -> None:
    ranks = retrieval_ranks(linear_average, split.validation, 13)
    contexts, targets = split.validation.batch(split.validation.starts)
    everything = split.validation.store.rows(torch.arange(len(split.validation.store))).double()
    for i in range(0, len(ranks), 17):
        own_context = set(range(int(split.validation.starts[i]), int(split.validation.starts[i]) + 5))
        scores = everything @ linear_average(contexts[i : i + 1])[0].double()
        target = int(split.validation.starts[i]) + 5
        better = [j for j in range(len(scores)) if j not in own_context and j != target and scores[j] > scores[target]]
        assert ranks[i] == len(better) + 1
    assert len(targets) == len(ranks)


def test_perfect_and_copying_predictors(split: Split) -> None:
    lookup = {
        tuple(c.flatten().tolist()): t for c, t in zip(*split.validation.batch(split.validation.starts), strict=True)
    }

    def perfect(contexts: torch.Tensor) -> torch.Tensor:
        return torch.stack([lookup[tuple(c.flatten().tolist())] for c in contexts])

    metrics = with_retrieval(
        summarise(score_rows(perfect, split.validation), split.validation), perfect, split.validation
    )
    assert metrics.cosine.value == pytest.approx(1, abs=1e-6)
    assert (metrics.hits["hit@1"], metrics.mrr) == (1.0, 1.0)
    assert metrics.above_threshold["0.8"] == 1.0
    copying = summarise(score_rows(lambda x: x[:, -1], split.validation), split.validation)
    assert copying.margin.value < 0


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


def test_baselines(split: Split) -> None:
    scores = baseline_scores(split.train, split.validation)
    assert list(scores) == ["linear average", "persistence", "mean vector", "random"]
    means = {name: float(s.cosine.mean()) for name, s in scores.items()}
    assert means["linear average"] > means["persistence"] > means["random"]
    targets = split.train.store.rows(split.train.starts + 5).double().mean(0)
    torch.testing.assert_close(mean_vector(split.train), torch.nn.functional.normalize(targets, dim=0).float())
