"""The report's figures, as inline SVG made by matplotlib.

Ours are solid and coloured, peers dashed and muted, and a contender looks the same in every figure.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from benchmarks.harness.contender import ANCHOR
from benchmarks.report.results import Row, Run
from benchmarks.report.tables import BATCHES, FORMS, count, our_row
from lvm_runtime.artifact.config import CONFIGS

SETTINGS = {
    "svg.fonttype": "none",  # text stays text: smaller, selectable, in the page's own font
    "svg.hashsalt": "lvm",  # the same figures give the same file
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a8f98",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#e4e7eb",
    "legend.frameon": False,
    "legend.fontsize": 8,
}
OURS = ("#0b6e99", "#d9480f", "#2b8a3e", "#7048e8", "#c2255c", "#1098ad", "#e67700", "#5c940d", "#862e9c")
PEERS = ("#6c757d", "#b08968", "#7f9c6b", "#8d8fc0", "#c79a3b", "#b5838d", "#5f9ea0", "#343a40")
MARKERS = "osD^vP*X<>hd"


class Styles:
    """A colour, a marker and a line for every contender of the runs, in the order of their names."""

    def __init__(self, runs: Sequence[Run]) -> None:
        names = {row.contender: row.ours for run in runs for row in run.rows}
        self._style: dict[str, dict[str, Any]] = {}
        for ours, palette in ((True, OURS), (False, PEERS)):
            for i, name in enumerate(n for n, mine in names.items() if mine is ours):
                self._style[name] = {
                    "color": palette[i % len(palette)],
                    "marker": MARKERS[i % len(MARKERS)],
                    "linestyle": "-" if ours else (0, (4, 2)),
                    "linewidth": 2.2 if ours else 1.2,
                    "markersize": 5 if ours else 4,
                    "zorder": 3 if ours else 2,
                }

    def line(self, contender: str) -> dict[str, Any]:
        """Return the arguments for a line."""
        return self._style[contender]

    def point(self, contender: str) -> dict[str, Any]:
        """Return the arguments for single points."""
        return {k: v for k, v in self._style[contender].items() if k not in ("linestyle", "linewidth")} | {
            "linestyle": "none"
        }


def throughput(run: Run, styles: Styles) -> str:
    """Predictions per second over the batch size, a panel per architecture."""

    def panel(axes: Any, model: str) -> None:
        for name, rows in _by_contender(run.select(model=model)).items():
            axes.plot([r.batch for r in rows], [r.per_second for r in rows], label=name, **styles.line(name))
        batches = sorted({r.batch for r in run.select(model=model)})
        axes.set(xscale="log", yscale="log", xlabel="batch", ylabel="predictions / s")
        axes.set_xticks(batches, [str(b) for b in batches])
        axes.xaxis.set_minor_locator(NullLocator())
        _counts(axes.yaxis)

    return _panels(run, panel)


def overview(run: Run) -> str:
    """Return predictions per second at three batch sizes, for the README: readable on light and on dark ground.

    Our two forms beside plain onnxruntime and the fastest peer of any precision; a panel per architecture.
    """
    grey = "#7d8590"
    ink = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), grey)
    with plt.rc_context(SETTINGS | ink | {"grid.color": "#7d859040", "font.family": "sans-serif"}):
        figure, grid = plt.subplots(1, len(run.models), figsize=(3.0 * len(run.models), 3.1), squeeze=False)
        for axes, model in zip(grid.flat, run.models, strict=True):
            lines: tuple[Callable[[int], Row | None], ...] = (
                *(partial(our_row, run, model, precision=precision) for precision in reversed(FORMS)),
                partial(run.find, model, contender=ANCHOR),
                partial(run.best_peer, model),
            )
            for (label, style), line in zip(_OVERVIEW.items(), lines, strict=True):
                rows = [line(batch) for batch in BATCHES]
                points = [(row.batch, row.per_second) for row in rows if row is not None]
                axes.plot(*zip(*points, strict=True), label=label, **style)
            axes.set(xscale="log", yscale="log", xlabel="batch", title=CONFIGS[model].title)
            axes.set_xticks(BATCHES, map(str, BATCHES))
            axes.xaxis.set_minor_locator(NullLocator())
            _counts(axes.yaxis)
        grid.flat[0].set_ylabel("predictions / s")
        figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="lower center", ncols=len(_OVERVIEW))
        figure.tight_layout(rect=(0, 0.08, 1, 1))
        return _svg(figure, transparent=True)


_OVERVIEW: dict[str, dict[str, Any]] = {
    "lvm_runtime int8": {"color": "#d9480f", "marker": "o", "linewidth": 2.2},
    "lvm_runtime fp32": {"color": "#2f81f7", "marker": "s", "linewidth": 2.2},
    "plain onnxruntime fp32": {"color": "#7d8590", "marker": "v", "linestyle": "--"},
    "fastest peer, any precision": {"color": "#2da44e", "marker": "^", "linestyle": ":"},
}


def latency(run: Run, styles: Styles) -> str:
    """Median, p95 and p99 of one context, a panel per architecture; the fastest is on top."""

    def panel(axes: Any, model: str) -> None:
        rows = sorted(run.select(model=model, batch=1), key=lambda r: -r.record["milliseconds"]["median"])
        for y, row in enumerate(rows):
            ms, style = row.record["milliseconds"], styles.line(row.contender)
            axes.plot([ms["median"], ms["p99"]], [y, y], color=style["color"], linewidth=1.5, alpha=0.6)
            axes.plot(ms["median"], y, marker="o", color=style["color"], markersize=6)
            axes.plot(ms["p95"], y, marker="|", color=style["color"], markersize=10, markeredgewidth=2)
            axes.plot(ms["p99"], y, marker=">", color=style["color"], markersize=4)
        axes.set_yticks(range(len(rows)), [r.contender for r in rows])
        axes.set(xscale="log", xlabel="ms   (● median, | p95, ▸ p99)")
        axes.grid(axis="y", visible=False)
        _plain(axes.xaxis)

    return _panels(run, panel, legend=False, width=6.1)


def accuracy(run: Run, styles: Styles, batch: int) -> str:
    """Drift against speed over the plain export at one batch size, with its interval, a panel per architecture."""

    def panel(axes: Any, model: str) -> None:
        for row in run.select(model=model, batch=batch):
            if row.over_anchor is not None:
                at, style = max(row.drift, 1e-15), styles.point(row.contender)
                if interval := row.interval(ANCHOR):
                    axes.plot([at, at], interval, color=style["color"], linewidth=1, zorder=style["zorder"])
                axes.plot(at, row.over_anchor, label=row.contender, **style)
        axes.axhline(1.0, color="#495057", linewidth=0.8)
        axes.axvspan(1e-3, 1e-1, color="#fff0f0", zorder=0)
        axes.set(xscale="log", xlim=(1e-15, 1e-1), xlabel="drift (1 − cosine; shaded: over 1e-3)")
        axes.set_ylabel("× plain onnxruntime fp32")

    return _panels(run, panel)


def roofline(run: Run, styles: Styles) -> str:
    """Rate of the rewritten multiply-adds over their number per weight byte, under the machine's two limits."""

    def panel(axes: Any, model: str) -> None:
        rows = run.select(model=model)
        axes.set(xscale="log", yscale="log")
        for name, mine in _by_contender(rows).items():
            x = [r.record["macs_rewritten"] * r.batch / r.record["weight_bytes"] for r in mine]
            axes.plot(x, [r.record["giga_macs_per_second"] for r in mine], label=name, **styles.line(name))
        _ceilings(axes, run, rows)
        axes.set(xlabel="multiply-adds per weight byte read", ylabel="10⁹ multiply-adds / s")
        _plain(axes.yaxis)
        _plain(axes.xaxis)

    return _panels(run, panel) if run.ceilings else ""


def _ceilings(axes: Any, run: Run, rows: Sequence[Row]) -> None:
    low, high = axes.get_xlim()
    for product in run.ceilings["products"]:
        mine = [r for r in rows if (r.precision, r.record["device"]) == (product["precision"], product["device"])]
        if not mine:
            continue
        size = mine[0].record["weight_bytes"]
        bandwidths = run.ceilings["bandwidths"]
        read = next((b for b in bandwidths if b["bytes"] >= size), bandwidths[-1])["giga_bytes_per_second"]
        top = product["giga_macs_per_second"]
        knee = top / read
        axes.plot([low, min(knee, high), high], [low * read, min(top, high * read), top], color="#212529", linewidth=1)
        label = f"{product['precision']}\n{product['library']}"  # beside the axes, where no curve crosses it
        beside = {"xytext": (4, 0), "textcoords": "offset points", "annotation_clip": False}
        axes.annotate(label, (high, top), ha="left", va="center", fontsize=7, color="#212529", **beside)
    axes.set_xlim(low, high)


def _by_contender(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda r: (not r.ours, r.contender, r.batch)):
        found.setdefault(row.contender, []).append(row)
    return found


def _panels(run: Run, draw: Callable[[Any, str], None], *, legend: bool = True, width: float = 5.4) -> str:
    """Draw one panel per architecture, two in a row, with one legend below, and return the SVG."""
    models = run.models
    columns = min(2, len(models))
    lines = -(-len(models) // columns)
    with plt.rc_context(SETTINGS):
        figure, grid = plt.subplots(lines, columns, figsize=(width * columns, 3.3 * lines + 0.7), squeeze=False)
        for axes, model in zip(grid.flat, models, strict=False):
            draw(axes, model)
            axes.set_title(CONFIGS[model].title)
        for axes in list(grid.flat)[len(models) :]:
            axes.set_visible(False)
        bottom = 0.0
        if legend:
            handles = {
                label: h for axes in grid.flat for h, label in zip(*axes.get_legend_handles_labels(), strict=True)
            }
            figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=3)
            bottom = 0.22 * -(-len(handles) // 3) / figure.get_size_inches()[1]
        figure.tight_layout(rect=(0, bottom, 1, 1))
        text = _svg(figure)
    return text[text.index("<svg") :]


def _svg(figure: Any, **settings: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, **settings)
    plt.close(figure)
    return buffer.getvalue()


def _counts(axis: Any) -> None:
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: count(value).replace(".00", "").replace(".0", "")))
    axis.set_minor_formatter(NullFormatter())


def _plain(axis: Any) -> None:
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
