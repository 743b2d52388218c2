"""How often a prediction finds the next vector among all vectors of the corpus: the currency of a search.

q queries, N corpus vectors, T context length, D vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..data.windows import WindowSet
from .metrics import Estimate, Floats, Metrics, Predict, RowScores, bootstrap_all, score_rows, summarise

HITS = (1, 5, 10)
RETRIEVAL_QUERIES = 1000
"""Ranks are counted for this many windows, evenly spaced, if no other number is given: each is compared with the
whole corpus."""

_CANDIDATE_BLOCK = 8192
_ROUNDING = 1e-6  # of a cosine in float32: ties count as better


@dataclass(frozen=True, slots=True)
class RankScores:
    """Per query: the target's rank `[q]` (1 is best), the share of the corpus farther than it `[q]`, its group `[q]`.

    `farther` is the contrastive accuracy of Large Concept Models (arXiv 2412.08821, section 2.4), with the corpus
    in the place of the batch: the target itself and the vectors before and after it are left out.
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


def score(predictors: Mapping[str, Predict], windows: WindowSet, queries: int = RETRIEVAL_QUERIES) -> dict[str, Scores]:
    """Return the scores of every predictor on `windows`; the corpus is read once for all of them."""
    ranks = rank_rows(predictors, windows, queries)
    return {name: Scores(score_rows(p, windows), ranks[name]) for name, p in predictors.items()}


@torch.no_grad()
def rank_rows(
    predictors: Mapping[str, Predict],
    windows: WindowSet,
    queries: int = RETRIEVAL_QUERIES,
    *,
    rows: tuple[int, int] | None = None,
) -> dict[str, RankScores]:
    """Rank each window's target among the vectors of the corpus, for at most `queries` windows, evenly spaced (0: all).

    The window's own context is left out of the candidates: the reader has it already. Ties count as better. `rows`
    limits the candidates to a range that holds the windows. Memory is 1,000 · 8,192 cosines, whatever N is.
    """
    sample = windows.sample(queries or len(windows))
    begin, end = rows or (0, len(windows.store))
    contexts, targets = sample.batch(sample.starts)
    targets, own_rows = F.normalize(targets, dim=1), sample.starts + sample.context_length
    predictions = {name: torch.cat([p(c).float() for c in contexts.split(256)]) for name, p in predictors.items()}
    limits = {name: (p * targets).sum(dim=1, keepdim=True) - _ROUNDING for name, p in predictions.items()}
    counts = {name: torch.zeros(len(sample), dtype=torch.int64, device=targets.device) for name in predictions}
    for first in range(begin, end, _CANDIDATE_BLOCK):
        block = torch.arange(first, min(first + _CANDIDATE_BLOCK, end), device=targets.device)
        candidates = F.normalize(windows.store.rows(block), dim=1)
        for name, found in predictions.items():
            for part in torch.arange(len(sample), device=targets.device).split(RETRIEVAL_QUERIES):
                counts[name][part] += (found[part] @ candidates.T >= limits[name][part]).sum(dim=1)
    contexts = F.normalize(contexts, dim=2)
    following = F.normalize(windows.store.rows((own_rows + 1).clamp(max=end - 1)), dim=1)
    has_following = own_rows + 1 < end

    def finish(name: str) -> RankScores:
        near = torch.einsum("btd,bd->bt", contexts, predictions[name]) >= limits[name]  # [q, T]
        near_after = ((following * predictions[name]).sum(dim=1, keepdim=True) >= limits[name])[:, 0] & has_following
        rank = (counts[name] - near.sum(dim=1)).clamp(min=1)
        others = end - begin - 2 - has_following.long()
        nearer = (counts[name] - 1 - near[:, -1].long() - near_after.long()).clamp(min=0)
        return RankScores(_host(rank), 1 - _host(nearer) / np.maximum(_host(others), 1), sample.groups)

    return {name: finish(name) for name in predictions}


def _host(values: Tensor) -> NDArray[np.int64]:
    return values.cpu().numpy()
