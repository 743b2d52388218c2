"""What a set of predictions is worth, with intervals that know windows of one document are not independent.

n windows, R resamples, D vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lvm_runtime.backends.devices import inference

from ..data.windows import WindowSet

THRESHOLDS = (0.5, 0.6, 0.7, 0.8)
RESAMPLES = 1000
_STUDENT = (1.960, 2.372, 2.822, 2.556)
"""Factors of 1/ν⁰ … 1/ν³ in the 97.5 % point of Student's t with ν degrees of freedom (Abramowitz & Stegun 26.7.5)."""

CLEAR = "clear of zero"
FEWEST_DOCUMENTS = 6
"""From here on, documents that all lie on one side of zero are rarer than 1 in 20."""

Floats = NDArray[np.float64]
Predict = Callable[[Tensor], Tensor]
"""From contexts `[b, T, D]` to predictions `[b, D]`."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % bootstrap interval over documents, and over how many; None where that was not kept."""

    value: float
    low: float
    high: float
    documents: int | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Estimate:
        """Return what `to_dict` wrote; earlier ones did not say of how many documents."""
        return cls(values["value"], values["low"], values["high"], values.get("documents"))

    @property
    def word(self) -> str:
        """How a difference lies to zero. Of fewer than 6 documents, an interval says too little of others.

        If nothing is behind a difference, 5 documents are all on one side of zero once in 16 times.
        """
        if self.documents == 1 or (self.documents is None and self.low == self.high != 0):
            return "of ONE document"
        if self.documents is not None and self.documents < FEWEST_DOCUMENTS:
            return f"of {self.documents} DOCUMENTS"
        return CLEAR if self.low > 0 else "BELOW zero" if self.high < 0 else "not clear of zero"

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"

    @property
    def signed(self) -> str:
        """A difference with its interval, and what keeps it from being clear of zero."""
        verdict = "" if self.word == CLEAR else f" ({self.word})"
        return f"{self.value:+.4f} [{self.low:+.4f}, {self.high:+.4f}]{verdict}"

    def short(self) -> str:
        """Return the figures with three decimals."""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"value": self.value, "low": self.low, "high": self.high, "documents": self.documents}


@dataclass(frozen=True, slots=True)
class RowScores:
    """Per window, in float64: cosine to the target `[n]`, squared error `[n]`, cosine to the last context vector."""

    cosine: Floats
    squared_error: Floats
    cosine_to_last: Floats


@dataclass(frozen=True, slots=True)
class Metrics:
    """Everything measured on one set of windows; `retrieval` holds hit@k, mrr and contrastive accuracy by name."""

    windows: int
    cosine: Estimate
    mse: float
    margin: Estimate
    above_threshold: dict[str, float]
    retrieval: dict[str, Estimate]

    @property
    def hits(self) -> dict[str, float]:
        """The share of windows whose target is among the first k, by "hit@k"."""
        return {name: found.value for name, found in self.retrieval.items() if name.startswith("hit@")}

    @property
    def mrr(self) -> float:
        """The mean reciprocal rank of the target."""
        return self.retrieval["mrr"].value

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
            "retrieval": {name: found.to_dict() for name, found in self.retrieval.items()},
        }


def score_rows(predict: Predict, windows: WindowSet) -> RowScores:
    """Predict every window, in full precision, and return its scores; memory does not grow with D."""
    with inference(windows.starts.device.type, None):
        columns = [_scores(predict, *windows.batch(starts)) for starts in windows.batches(256)]
        scores = torch.cat(columns, dim=1).cpu().double().numpy()  # [3, n]
    return RowScores(*scores)


def _scores(predict: Predict, contexts: Tensor, targets: Tensor) -> Tensor:
    """Return what `RowScores` holds of a batch `[3, b]`."""
    predictions = predict(contexts).float()
    return torch.stack(
        [
            F.cosine_similarity(predictions, targets, dim=1),
            (predictions - targets).square().mean(dim=1),
            F.cosine_similarity(predictions, contexts[:, -1], dim=1),
        ]
    )


def bootstrap(values: Floats, groups: NDArray[np.int64]) -> Estimate:
    """Return the mean of `values` `[n]` with a percentile interval from resampling whole groups.

    Windows of one document overlap and share a topic, so resampling windows would give intervals that are far
    too narrow. Source: cluster bootstrap, Davison & Hinkley 1997, section 3.8.

    Resamples of few documents vary too little as well: between their percentiles 2.5 and 97.5 the mean lies 91 times
    in 100 with 20 documents and 84 times with 6. So the interval is the expanded one of Hesterberg 2015 ("What
    Teachers Should Know About the Bootstrap"), as much wider as Student's t is than the normal distribution.
    """
    return bootstrap_all({"": values}, groups)[""]


def bootstrap_all(columns: Mapping[str, Floats], groups: NDArray[np.int64]) -> dict[str, Estimate]:
    """Return `bootstrap` of every column `[n]`, all from the same resamples of `groups` `[n]`."""
    _, place = np.unique(groups, return_inverse=True)
    counts = np.bincount(place).astype(np.float64)
    rng = np.random.default_rng(0)
    draws = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=RESAMPLES)  # [R, documents]
    percentiles = _percentiles(len(counts))
    found = {}
    for name, values in columns.items():
        means = (draws @ np.bincount(place, weights=values)) / (draws @ counts)
        low, high = np.percentile(means, percentiles)
        found[name] = Estimate(float(values.mean()), float(low), float(high), len(counts))
    return found


def _percentiles(documents: int) -> tuple[float, float]:
    """Return the percentiles of resampled means at which a 95 % interval of so many documents begins and ends."""
    free = max(documents - 1, 1)
    student = sum(factor / free**power for power, factor in enumerate(_STUDENT))
    low = 100 * NormalDist().cdf(-student * (documents / free) ** 0.5)
    return low, 100 - low


def summarise(scores: RowScores, windows: WindowSet, retrieval: dict[str, Estimate]) -> Metrics:
    """Return the metrics that need no search (cosine, MSE, margin, share over each threshold) beside `retrieval`."""
    return Metrics(
        windows=len(windows),
        cosine=bootstrap(scores.cosine, windows.groups),
        mse=float(scores.squared_error.mean()),
        margin=bootstrap(scores.cosine - scores.cosine_to_last, windows.groups),
        above_threshold={str(t): float((scores.cosine > t).mean()) for t in THRESHOLDS},
        retrieval=retrieval,
    )
