"""Plots of a comparison that are about search, each as an SVG string: hit@k, and cosine by offset."""

from __future__ import annotations

from typing import Any

from ..evaluation.offsets import OFFSETS
from .plots import GREY, colours, figure
from .runs import Run
from .search import baseline_curves, hits_by_k

_STYLES = ("-", "--", ":", "-.")


def hits(runs: list[Run]) -> str:
    """Return hit@k over k of every run and of the baselines of the first run's data."""
    runs = [run for run in runs if "rank" in run.windows]

    def draw(axes: Any) -> None:
        for name, style in zip(baseline_curves(runs[0]), _STYLES, strict=False):
            label = f"{name.removeprefix('rank of ')} ({runs[0].row.data})"
            axes.plot(*hits_by_k(runs[0], name), style, color=GREY, linewidth=1.2, label=label)
        for run, colour in zip(runs, colours(runs), strict=True):
            axes.plot(*hits_by_k(run), color=colour, label=run.row.name)
        axes.set_xscale("log")
        axes.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
        axes.set(xlabel="k", ylabel="share found among the first k", ylim=(0, None))
        axes.legend(frameon=False, fontsize=8)

    return figure(draw)


def offsets(runs: list[Run]) -> str:
    """Return the cosine of predictions to the vectors around the last one of the context, by offset."""

    def draw(axes: Any) -> None:
        for run, colour in zip(runs, colours(runs), strict=True):
            profile = run.result["validation"].get("offsets", {})
            places = [int(name) for name in profile]
            values = [found["value"] for found in profile.values()]
            axes.plot(places, values, color=colour, marker="o", markersize=4, label=run.row.name)
        axes.axvspan(0.5, 1.5, color=GREY, alpha=0.15)
        axes.text(1, 0.02, "next", transform=axes.get_xaxis_transform(), ha="center", fontsize=8, color=GREY)
        axes.set_xticks(OFFSETS)
        axes.set(xlabel="offset from the last context vector (0)", ylabel="mean cosine of the prediction")
        axes.legend(frameon=False, fontsize=8)

    return figure(draw)
