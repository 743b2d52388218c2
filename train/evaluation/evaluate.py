"""A model beside the baselines on one set of windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from lvm_runtime.commands.tables import aligned

from ..data.windows import WindowSet
from .baselines import LINEAR_AVERAGE
from .metrics import CLEAR, Estimate, Metrics, bootstrap, bootstrap_all
from .offsets import offset_profile, profile_lines
from .retrieval import Scores, score

NAMES = {"cosine": "cosine", "mrr": "MRR", "contrastive": "contrastive accuracy"}


@dataclass(frozen=True, slots=True)
class Difference:
    """A model's metric less that of `baseline` on the same windows, with its paired interval over documents."""

    baseline: str
    value: Estimate

    @property
    def word(self) -> str:
        """How it lies to zero, or of how few documents it is."""
        return self.value.word

    def __str__(self) -> str:
        v = self.value
        return f"{v.value:+.4f} [{v.low:+.4f}, {v.high:+.4f}]"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"baseline": self.baseline, **self.value.to_dict()}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A model beside the baselines on one set of windows.

    `gain` is its cosine minus the linear average's. `versus` holds paired differences by metric: cosine to the
    baseline with the best cosine; hit@k, mrr and contrastive accuracy each to the baseline that is best at it.
    `offsets` is the offset profile.
    """

    metrics: Metrics
    gain: Estimate
    versus: dict[str, Difference]
    baselines: dict[str, Metrics]
    scores: Scores
    baseline_scores: dict[str, Scores]
    groups: NDArray[np.int64]
    offsets: dict[str, Estimate]

    @property
    def linear_average(self) -> Estimate:
        """The cosine of the linear average."""
        return self.baselines[LINEAR_AVERAGE].cosine

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: the model's metrics, the differences and the baselines' metrics."""
        return self.metrics.to_dict() | {
            "gain": self.gain.to_dict(),
            "offsets": {name: found.to_dict() for name, found in self.offsets.items()},
            "versus": {name: found.to_dict() for name, found in self.versus.items()},
            "baselines": {name: metrics.cosine.to_dict() for name, metrics in self.baselines.items()},
            "baseline_metrics": {name: metrics.to_dict() for name, metrics in self.baselines.items()},
        }


def evaluate(
    model: nn.Module, windows: WindowSet, baselines: dict[str, Scores], doc_ids: NDArray[np.int64]
) -> Evaluation:
    """Return the metrics of `model` on `windows`, beside those of the baselines there; `doc_ids` are the corpus's."""
    predict = model.eval()
    queries = len(next(iter(baselines.values())).ranks.rank)  # the same for both, since differences are paired
    scores = score({"model": predict}, windows, queries)["model"]
    gain = bootstrap(scores.rows.cosine - baselines[LINEAR_AVERAGE].rows.cosine, windows.groups)
    found = {name: s.metrics(windows) for name, s in baselines.items()}
    nearest = max(found, key=lambda name: found[name].cosine.value)
    paired = bootstrap(scores.rows.cosine - baselines[nearest].rows.cosine, windows.groups)
    versus = {"cosine": Difference(nearest, paired)} | paired_differences(scores, baselines)
    offsets = offset_profile(predict, windows, doc_ids)
    return Evaluation(scores.metrics(windows), gain, versus, found, scores, baselines, windows.groups, offsets)


def paired_differences(scores: Scores, baselines: dict[str, Scores]) -> dict[str, Difference]:
    """Return the paired difference of each retrieval metric to the baseline that is best at it, on the same queries."""
    theirs = {name: found.ranks.columns() for name, found in baselines.items()}
    mine = scores.ranks.columns()
    best = {metric: max(theirs, key=lambda name: float(theirs[name][metric].mean())) for metric in mine}
    columns = {metric: values - theirs[best[metric]][metric] for metric, values in mine.items()}
    return {k: Difference(best[k], v) for k, v in bootstrap_all(columns, scores.ranks.groups).items()}


def verdict(versus: dict[str, Difference]) -> str:
    """Return in one line whether a model beats the best baselines."""
    parts = []
    for metric, title in (("cosine", "cosine"), ("mrr", "retrieval")):
        found = versus[metric]
        word = "beats" if found.word == CLEAR else "DOES NOT BEAT"
        parts.append(f"{word} the best baseline for {title} ({found.baseline}: {NAMES[metric]} {found}, {found.word})")
    return " and ".join(parts)


def figures(evaluation: Evaluation, notes: dict[str, str]) -> list[str]:
    """Return a line of figures for the model and one for each baseline, under a head, and the offset profile."""
    heads = ("cosine", "hit@1", "hit@5", "hit@10", "MRR", "contrastive")
    rows: list[tuple[str, ...]] = [("", *heads)]
    for name, metrics in {"this model": evaluation.metrics, **evaluation.baselines}.items():
        note = notes.get(name)
        title = name if note is None else f"{name}, {note}"
        cells = [metrics.cosine, *metrics.retrieval.values()]
        rows.append((title, *(cell.short() for cell in cells)))
    lines = [f"  {line}" for line in aligned(rows[0], rows[1:]).splitlines()]
    margin, gain = evaluation.metrics.margin, evaluation.gain
    lines.append(f"  margin to the last vector {margin.value:+.3f}; cosine less the linear average {gain}")
    return lines + profile_lines(evaluation.offsets)
