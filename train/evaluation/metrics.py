"""What a set of predictions is worth, with intervals that know windows of one document are not independent.

n windows, R resamples, N candidate vectors, T context length, D vector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..data.windows import VectorStore, WindowSet

THRESHOLDS = (0.5, 0.6, 0.7, 0.8)
HITS = (1, 5, 10)
RESAMPLES = 1000
RETRIEVAL_QUERIES = 1000
"""Ranks are counted for this many windows, evenly spaced: each one is compared with the whole corpus."""

_CANDIDATE_BLOCK = 16_384

Floats = NDArray[np.float64]
Predict = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % bootstrap interval over documents."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"

    def to_dict(self) -> dict[str, float]:
        """Return plain JSON values."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class RowScores:
    """Per window, in float64: cosine to the target `[n]`, squared error `[n]`, cosine to the last context vector."""

    cosine: Floats
    squared_error: Floats
    cosine_to_last: Floats


@dataclass(frozen=True, slots=True)
class Metrics:
    """Everything measured on one set of windows."""

    windows: int
    cosine: Estimate
    mse: float
    margin: Estimate
    above_threshold: dict[str, float]
    hits: dict[str, float] = field(default_factory=dict)
    mrr: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "windows": self.windows,
            "cosine": self.cosine.to_dict(),
            "mse": self.mse,
            "margin": self.margin.to_dict(),
            "above_threshold": self.above_threshold,
            "hits": self.hits,
            "mrr": self.mrr,
        }


@torch.no_grad()
def score_rows(predict: Predict, windows: WindowSet, batch_size: int = 256) -> RowScores:
    """Predict every window and return its scores; memory does not grow with D."""
    columns: list[Tensor] = []
    for starts in windows.batches(batch_size):
        contexts, targets = windows.batch(starts)
        predictions = predict(contexts).float()
        columns.append(
            torch.stack(
                [
                    F.cosine_similarity(predictions, targets, dim=1),
                    (predictions - targets).square().mean(dim=1),
                    F.cosine_similarity(predictions, contexts[:, -1], dim=1),
                ]
            )
        )
    scores = torch.cat(columns, dim=1).cpu().double().numpy()  # [3, n]
    return RowScores(*scores)


def bootstrap(values: Floats, groups: NDArray[np.int64], *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Return the mean of `values` `[n]` with a percentile interval from resampling whole groups.

    Windows of one document overlap and share a topic, so resampling windows would give intervals that are far
    too narrow. Source: cluster bootstrap, Davison & Hinkley 1997, section 3.8.
    """
    _, place = np.unique(groups, return_inverse=True)
    sums = np.bincount(place, weights=values)
    counts = np.bincount(place).astype(np.float64)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=resamples)  # [R, documents]
    means = (draws @ sums) / (draws @ counts)
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(values.mean()), float(low), float(high))


def summarise(scores: RowScores, windows: WindowSet) -> Metrics:
    """Return the metrics that need no search: cosine, MSE, margin, share over each threshold."""
    return Metrics(
        windows=len(windows),
        cosine=bootstrap(scores.cosine, windows.groups),
        mse=float(scores.squared_error.mean()),
        margin=bootstrap(scores.cosine - scores.cosine_to_last, windows.groups),
        above_threshold={str(t): float((scores.cosine > t).mean()) for t in THRESHOLDS},
    )


@torch.no_grad()
def retrieval_ranks(predict: Predict, windows: WindowSet, batch_size: int = 128) -> NDArray[np.int64]:
    """Return the rank (1 is best) of each window's target among all vectors of the corpus.

    The window's own context is left out of the candidates: the reader has it already. Ties count as better.
    """
    ranks = []
    store = windows.store
    for starts in windows.batches(batch_size):
        contexts, targets = windows.batch(starts)
        predictions = predict(contexts).float()
        own = (predictions * F.normalize(targets, dim=1)).sum(dim=1, keepdim=True)
        better = _count_at_least(store, predictions, own)  # includes the target itself, hence no + 1
        in_context = torch.einsum("btd,bd->bt", F.normalize(contexts, dim=2), predictions) >= own - 1e-6
        ranks.append((better - in_context.sum(dim=1)).clamp(min=1).cpu())
    return torch.cat(ranks).numpy()


def _count_at_least(store: VectorStore, predictions: Tensor, own: Tensor) -> Tensor:
    count = torch.zeros(len(predictions), dtype=torch.int64, device=predictions.device)
    for begin in range(0, len(store), _CANDIDATE_BLOCK):
        block = torch.arange(begin, min(begin + _CANDIDATE_BLOCK, len(store)), device=predictions.device)
        candidates = F.normalize(store.rows(block), dim=1)
        count += (predictions @ candidates.T >= own - 1e-6).sum(dim=1)
    return count


def with_retrieval(metrics: Metrics, predict: Predict, windows: WindowSet) -> Metrics:
    """Return `metrics` with hit@k and MRR over at most `RETRIEVAL_QUERIES` windows."""
    ranks = retrieval_ranks(predict, windows.sample(RETRIEVAL_QUERIES))
    return Metrics(
        metrics.windows,
        metrics.cosine,
        metrics.mse,
        metrics.margin,
        metrics.above_threshold,
        {f"hit@{k}": float((ranks <= k).mean()) for k in HITS},
        float((1 / ranks).mean()),
    )
