"""One self-contained HTML page of a comparison: no script, no network, plots inside."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from html import escape

from lvm_runtime.system import extras

from .runs import Run
from .search import HEADS, search_table, verdicts
from .table import baseline_lines, table

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #111827; background: #fff; max-width: 1480px; margin: 2rem auto;
       padding: 0 1.2rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.05rem; margin: 0 0 .4rem }
p { color: #374151; max-width: 52rem } .scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: 12.5px; font-variant-numeric: tabular-nums; margin: 1rem 0 }
th, td { padding: .35rem .55rem; text-align: right; border-bottom: 1px solid #e5e7eb; vertical-align: top }
th { font-weight: 600; text-align: right } td:first-child, th:first-child, td.text, th.text { text-align: left }
td:first-child { font-weight: 600 } td.text { min-width: 9rem } td.nowrap { white-space: nowrap }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(480px, 100%), 1fr)); gap: 1.6rem;
  margin-top: 1.5rem }
figure { margin: 0 } figure img { width: 100%; height: auto } figcaption { font-size: 12.5px; color: #4b5563 }
"""

UNIFORM = 0.02
"""Attention whose mean, quartiles and examples are all within this of 1/T is called uniform."""


def page(runs: list[Run], remarks: list[str]) -> str:
    """Return the page for `runs`. Raises BackendUnavailable where matplotlib is missing."""
    extras.require("train", "the page of a comparison", "matplotlib")
    columns, lines = table(runs)
    kinds = [_kind(column) for column in range(len(columns))]
    search_kinds = ["nowrap"] * 7 + ["text"] * (len(HEADS) - 7)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Latent vector models compared</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<h1>Latent vector models compared</h1>{_paragraphs(verdicts(runs))}"
        f"{_table(_row('th', columns, kinds), lines, kinds)}{_paragraphs([*remarks, *baseline_lines(runs)])}"
        "<h2>Search, beside what needs no model</h2>"
        f"{_table(_row('th', HEADS, [''] * len(HEADS)), search_table(runs), search_kinds)}"
        f'<div class="plots">{"".join(_figures(runs))}</div></body></html>\n'
    )


def _figures(runs: list[Run]) -> Iterator[str]:
    from . import plots, search_plots

    for title, svg, caption in (
        ("Finding the next chunk", search_plots.hits, "hit@k over k, validation; grey: what needs no model."),
        ("Where predictions point", search_plots.offsets, "Validation. The best place is +1: the next chunk."),
        ("Validation by epoch", plots.curves, "Zero: the linear average. Ring: the epoch kept."),
        ("Training loss by epoch", plots.losses, "Relative to each run's first epoch."),
        ("Cosine with intervals", plots.cosines, "Bootstrapped over documents, beside the baselines."),
        ("Quality against speed", plots.speed, "Up and to the right is better."),
        ("Per-window cosine", plots.distribution, "How the average comes about."),
    ):
        yield _figure(title, svg(runs), caption)
    for run in runs:
        if "attention_mean" in run.windows:
            yield _figure(f"Attention of {run.row.name}", plots.attention(run), _attention_caption(run))


def _paragraphs(lines: list[str]) -> str:
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def _table(head: str, lines: list[list[str]], kinds: list[str]) -> str:
    body = "".join(_row("td", line, kinds) for line in lines)
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _row(tag: str, cells: Sequence[str], kinds: list[str]) -> str:
    """Return a row of cells, each of the class that `kinds` has for its column."""
    found = (f'<{tag} class="{kind}">{escape(cell)}</{tag}>' for kind, cell in zip(kinds, cells, strict=True))
    return f"<tr>{''.join(found)}</tr>"


def _attention_caption(run: Run) -> str:
    examples = run.windows["attention_examples"]
    seen = [examples, run.windows["attention_mean"], run.windows["attention_quartiles"]]
    spread = max(abs(weights - 1 / examples.shape[1]).max() for weights in seen)
    verdict = "UNIFORM: this attention says nothing of a context. " if spread < UNIFORM else ""
    return f"{verdict}Mean with quartiles, and single windows; weights differ from uniform by at most {spread:.1e}."


def _kind(column: int) -> str:
    return "text" if column == 1 else "nowrap" if column in (0, 5, 6, 7) else ""


def _figure(title: str, svg: str, caption: str) -> str:
    data = base64.b64encode(svg.encode()).decode()
    return (
        f'<figure><h2>{escape(title)}</h2><img alt="{escape(title)}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
