"""The part of a comparison that is about search: verdicts, a table of models and baselines, figures for a plot."""

from __future__ import annotations

from typing import Any

import numpy as np

from lvm_runtime.commands import tables

from ..evaluation.baselines import PERSISTENCE
from ..evaluation.evaluate import Difference, verdict
from ..evaluation.metrics import Estimate
from ..evaluation.offsets import past_warning
from .runs import Run, windows_of

HEADS = ("", "cosine [95 %]", "hit@1", "hit@5", "hit@10", "MRR [95 %]", "contrastive", "cosine to best baseline",
         "MRR to best baseline", "hit@10 to best baseline")  # fmt: skip
_NONE = ""


def verdicts(runs: list[Run]) -> list[str]:
    """Return a line per run: whether it beats its baselines, and a warning where it fits the past."""
    lines = []
    for run in runs:
        side = _side(run)
        found = run.result[side]
        versus = {k: Difference(v["baseline"], Estimate.from_dict(v)) for k, v in found["versus"].items()}
        lines.append(f"{run.row.name} ({side} documents) {verdict(versus)}.")
        warning = past_warning({k: Estimate.from_dict(v) for k, v in found["offsets"].items()})
        lines += [f"{run.row.name}: {warning}."] if warning else []
    return lines


def search_table(runs: list[Run]) -> list[list[str]]:
    """Return a line of cells per model and, after the models of a data set, one per baseline there.

    They are of test documents, which chose nothing, where a run kept some, and of validation documents elsewhere.
    """
    lines: list[list[str]] = []
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(windows_of(run, _side(run)), []).append(run)
    for (data, side, *_), members in groups.items():
        lines += [_cells(f"{run.row.name} ({side})", run.result[side]) for run in members]
        baselines = members[0].result[side]["baseline_metrics"]
        lines += [_cells(f"{name}, {data} ({side})", found) for name, found in baselines.items()]
    return lines


def _side(run: Run) -> str:
    return "test" if run.result["test"] else "validation"


def _cells(name: str, found: dict[str, Any]) -> list[str]:
    look = {k: Estimate.from_dict(v) for k, v in found["retrieval"].items()}
    cells = [name, Estimate.from_dict(found["cosine"]).short()]
    cells += [look[k].short() for k in ("hit@1", "hit@5", "hit@10", "mrr", "contrastive")]
    if "versus" not in found:
        return cells + [_NONE] * 3
    for metric in ("cosine", "mrr", "hit@10"):
        difference = Difference(found["versus"][metric]["baseline"], Estimate.from_dict(found["versus"][metric]))
        cells.append(f"{difference} {difference.word} ({difference.baseline})")
    return cells


def search_markdown(runs: list[Run]) -> str:
    """Return verdicts and table as Markdown."""
    return "\n".join([*verdicts(runs), "", tables.markdown(HEADS, search_table(runs), left=len(HEADS))]) + "\n"


def hits_by_k(run: Run, name: str = "rank") -> tuple[np.ndarray, np.ndarray]:
    """Return k = 1 … 100 and the share of queries whose target is among the first k."""
    ranks = run.windows[name]
    k = np.arange(1, 101)
    return k, (ranks[None, :] <= k[:, None]).mean(axis=1)


def baseline_curves(run: Run) -> list[str]:
    """Return the arrays of `windows.npz` that hold the ranks of the baselines worth drawing."""
    dull = {"rank of random", "rank of mean vector"}
    names = sorted(name for name in run.windows if name.startswith("rank of ") and name not in dull)
    return sorted(names, key=lambda name: name != f"rank of {PERSISTENCE}")
