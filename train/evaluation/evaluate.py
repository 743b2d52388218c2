"""A model beside the baselines on one set of windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..data.windows import WindowSet
from .baselines import LINEAR_AVERAGE
from .metrics import Estimate, Metrics, RowScores, bootstrap, score_rows, summarise, with_retrieval


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A model beside the baselines on one set of windows; `gain` is its cosine minus the linear average's."""

    metrics: Metrics
    gain: Estimate
    baselines: dict[str, Estimate]
    scores: RowScores
    baseline_scores: dict[str, RowScores]
    groups: np.ndarray

    @property
    def linear_average(self) -> Estimate:
        """The baseline that counts."""
        return self.baselines[LINEAR_AVERAGE]


def evaluate(model: nn.Module, windows: WindowSet, baselines: dict[str, RowScores]) -> Evaluation:
    """Return the metrics of `model` on `windows`, beside those of the baselines there."""
    predict = predictor(model)
    scores = score_rows(predict, windows)
    metrics = with_retrieval(summarise(scores, windows), predict, windows)
    gain = bootstrap(scores.cosine - baselines[LINEAR_AVERAGE].cosine, windows.groups)
    estimates = {name: bootstrap(s.cosine, windows.groups) for name, s in baselines.items()}
    return Evaluation(metrics, gain, estimates, scores, baselines, windows.groups)


def verdict(name: str, evaluation: Evaluation) -> str:
    """Return in one line what the evaluation on the set called `name` found."""
    metrics, gain = evaluation.metrics, evaluation.gain
    word = "clear of zero" if gain.low > 0 else "BELOW zero" if gain.high < 0 else "not clear of zero"
    hits = ", ".join(f"{k} {v:.3f}" for k, v in metrics.hits.items())
    return (
        f"{name}: cosine {metrics.cosine}; gain over the linear average {gain}, {word}; "
        f"{hits}, MRR {metrics.mrr:.3f}, margin {metrics.margin.value:+.3f}"
    )


def predictor(model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return `model` in eval mode as a function of contexts."""
    model.eval()
    return lambda contexts: model(contexts)
