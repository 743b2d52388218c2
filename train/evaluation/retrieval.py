"""How often a search with a prediction finds the next vector among all vectors of the corpus.

q queries, N corpus vectors, T context length, D vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lvm_runtime.backends.devices import inference
from lvm_runtime.corpus.ranks import QUERIES, Search

from ..data.windows import WindowSet
from .metrics import Estimate, Floats, Metrics, Predict, RowScores, bootstrap_all, score_rows, summarise

HITS = (1, 5, 10)
_BATCH = 256


@dataclass(frozen=True, slots=True)
class RankScores:
    """Per query: the target's rank `[q]` (1 is best), the share of the corpus farther than it `[q]`, its group `[q]`.

    `lvm_runtime.corpus.ranks` defines both; `farther` is the contrastive accuracy.
    """

    rank: NDArray[np.int64]
    farther: Floats
    groups: NDArray[np.int64]

    def columns(self) -> dict[str, Floats]:
        """Return each metric per query `[q]`; its mean is the metric."""
        hits = {f"hit@{k}": (self.rank <= k).astype(np.float64) for k in HITS}
        return hits | {"mrr": 1 / self.rank, "contrastive": self.farther}

    def estimates(self) -> dict[str, Estimate]:
        """Return hit@1, hit@5, hit@10, mrr and contrastive accuracy with their intervals over documents."""
        return bootstrap_all(self.columns(), self.groups)


@dataclass(frozen=True, slots=True)
class Scores:
    """One predictor on one set of windows: `rows` on all of them, `ranks` on an evenly spaced sample."""

    rows: RowScores
    ranks: RankScores

    def metrics(self, windows: WindowSet) -> Metrics:
        """Return the metrics with their intervals."""
        return summarise(self.rows, windows, self.ranks.estimates())


def score(predictors: Mapping[str, Predict], windows: WindowSet, queries: int = QUERIES) -> dict[str, Scores]:
    """Return the scores of every predictor on `windows`; the corpus is read once for all of them."""
    ranks = rank_rows(predictors, windows, queries)
    return {name: Scores(score_rows(p, windows), ranks[name]) for name, p in predictors.items()}


def rank_rows(
    predictors: Mapping[str, Predict],
    windows: WindowSet,
    queries: int = QUERIES,
    *,
    rows: tuple[int, int] | None = None,
) -> dict[str, RankScores]:
    """Rank each window's target among the vectors of the corpus, for at most `queries` windows, evenly spaced (0: all).

    The window's own context is left out of the candidates. `rows` limits the candidates to a range that holds the
    windows. Memory is 1,000 · 8,192 cosines, whatever N is. Precision is full, whatever torch was told for training:
    the target's own cosine would be rounded in another way than those of its rivals.
    """
    sample = windows.sample(queries or len(windows))
    begin, end = rows or (0, len(windows.store))
    search = Search(windows.store.rows, sample.starts, sample.context_length, begin, end)
    with inference(sample.starts.device.type, None):
        contexts = [sample.batch(starts)[0] for starts in sample.batches(_BATCH)]
        predictions = {name: torch.cat([p(c).float() for c in contexts]) for name, p in predictors.items()}
        return {name: RankScores(*found, sample.groups) for name, found in search.ranks(predictions).items()}
