"""The plots of a comparison, each as an SVG string.

One colour per run throughout; baselines and ceilings are grey lines, because they are no model.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from .runs import Run, linear_average_of

COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea", "#dc2626", "#0891b2", "#65a30d", "#db2777")
GREY = "#6b7280"


def figure(draw: Callable[[Any], None], *, height: float = 3.8) -> str:
    """Return what `draw` puts on the axes, as SVG; `height` in inches."""
    canvas = Figure(figsize=(7.0, height), layout="constrained")
    axes = canvas.add_subplot()
    draw(axes)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "lvm", "svg.fonttype": "path"}):
        canvas.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def curves(runs: list[Run]) -> str:
    """Return validation cosine less the linear average by epoch, so that data sets can share a plot."""

    def draw(axes: Any) -> None:
        for run, colour in zip(runs, colours(runs), strict=True):
            epochs = [record["epoch"] for record in run.result["history"]]
            gains = [record["val_cosine"] - linear_average_of(run) for record in run.result["history"]]
            axes.plot(epochs, gains, color=colour, marker="o", markersize=3, label=run.row.name)
            best = epochs.index(run.row.best_epoch)
            axes.plot(epochs[best], gains[best], "o", color=colour, markersize=9, fillstyle="none")
        axes.axhline(0, color=GREY, linestyle="--", linewidth=1)
        axes.set(xlabel="epoch", ylabel="val cosine − linear average")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False, fontsize=8)

    return figure(draw)


def losses(runs: list[Run]) -> str:
    """Return the training loss by epoch, relative to its first epoch."""

    def draw(axes: Any) -> None:
        for run, colour in zip(runs, colours(runs), strict=True):
            history = [record for record in run.result["history"] if "loss" in record]  # epoch 0 has none
            first = history[0]["loss"] or 1.0  # of vectors that are all the same it is zero
            relative = [record["loss"] / first for record in history]
            epochs = [record["epoch"] for record in history]
            axes.plot(epochs, relative, color=colour, marker="o", markersize=3, label=run.row.name)
        axes.set(xlabel="epoch", ylabel="training loss / first epoch's")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False, fontsize=8)

    return figure(draw)


def cosines(runs: list[Run]) -> str:
    """Return cosine by model with its interval, each beside the baseline and ceiling of its own data."""

    def draw(axes: Any) -> None:
        for place, (run, colour) in enumerate(zip(runs, colours(runs), strict=True)):
            row = run.row
            error = [[max(row.cosine - row.low, 0)], [max(row.high - row.cosine, 0)]]
            axes.errorbar(row.cosine, place, xerr=error, fmt="o", color=colour, capsize=3)
            baselines = {k: v["value"] for k, v in run.result["validation"]["baselines"].items() if k != "random"}
            for name, value in baselines.items():
                strong = value == linear_average_of(run)
                axes.plot([value] * 2, [place - 0.35, place + 0.35], color=GREY, linewidth=2.2 if strong else 1,
                          linestyle="-" if strong else ":", label=name if place == 0 else None)  # fmt: skip
            if run.result["ceiling"] is not None:
                axes.plot([run.result["ceiling"]] * 2, [place - 0.35, place + 0.35], color="black", linewidth=2.2)
        axes.set_yticks(range(len(runs)), [f"{run.row.name}\n{run.row.data}" for run in runs], fontsize=8)
        axes.invert_yaxis()
        axes.set(xlabel="validation cosine, 95 % interval (thick grey: linear average, dotted: other baselines, "
                 "black: ceiling)")  # fmt: skip
        axes.xaxis.label.set_fontsize(8)

    return figure(draw, height=1.2 + 0.55 * len(runs))


def speed(runs: list[Run]) -> str:
    """Return cosine less the linear average against predictions per second at batch 32."""

    def draw(axes: Any) -> None:
        for run, colour in zip(runs, colours(runs), strict=True):
            axes.plot(run.row.speed["32"], run.row.gain, "o", color=colour, markersize=8)
            axes.annotate(run.row.name, (run.row.speed["32"], run.row.gain), xytext=(7, 5),
                          textcoords="offset points", fontsize=8, color=colour)  # fmt: skip
        axes.axhline(0, color=GREY, linestyle="--", linewidth=1)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))  # even steps where the view holds one of these at most
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 200, 1.18k, 12k
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.25, y=0.15)
        axes.set(xlabel="predictions/s, eager on the CPU, batch 32", ylabel="cosine − linear average")

    return figure(draw)


def distribution(runs: list[Run]) -> str:
    """Return the distribution of per-window cosine of each run, over the linear average's of the first."""

    def draw(axes: Any) -> None:
        bins = np.linspace(min(-0.1, *(float(r.windows["cosine"].min()) for r in runs)), 1.0, 60)
        axes.hist(runs[0].windows["linear_average"], bins, density=True, color=GREY, alpha=0.25,
                  label=f"linear average ({runs[0].row.data})")  # fmt: skip
        for run, colour in zip(runs, colours(runs), strict=True):
            axes.hist(run.windows["cosine"], bins, density=True, histtype="step", color=colour, label=run.row.name)
        axes.set(xlabel="cosine of one window's prediction", ylabel="density")
        axes.legend(frameon=False, fontsize=8)

    return figure(draw)


def attention(run: Run) -> str:
    """Return an AMN's attention by position: mean, quartiles, and a few windows."""

    def draw(axes: Any) -> None:
        mean = run.windows["attention_mean"]
        low, high = run.windows["attention_quartiles"]
        positions = np.arange(1, len(mean) + 1)
        axes.bar(positions, mean, color=COLOURS[0], alpha=0.35, label="mean")
        spread = np.maximum(np.stack([mean - low, high - mean]), 0)
        axes.errorbar(positions, mean, yerr=spread, fmt="none", color=COLOURS[0], capsize=4)
        for number, example in enumerate(run.windows["attention_examples"]):
            axes.plot(positions, example, color=GREY, linewidth=0.9, marker=".",
                      label="single windows" if number == 0 else None)  # fmt: skip
        axes.axhline(1 / len(mean), color="black", linestyle=":", linewidth=1, label="uniform")
        axes.set_xticks(positions)
        axes.set(xlabel="position in the context (the last is the most recent)", ylabel="attention")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper left")
        axes.set_ylim(top=axes.get_ylim()[1] * 1.2)

    return figure(draw)


def colours(runs: list[Run]) -> list[str]:
    """Return a colour per run, the same in every plot."""
    return [COLOURS[i % len(COLOURS)] for i in range(len(runs))]
