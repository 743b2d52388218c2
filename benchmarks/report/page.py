"""One HTML page that needs nothing beside itself: figures and tables of one or several machines."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.report import charts
from benchmarks.report.results import Run
from benchmarks.report.suites import SUITES, suite_rows
from benchmarks.report.tables import EXPLANATION, full_table, machine_section, reference_table, vectors_of
from lvm_runtime.artifact.config import ARCHITECTURES
from lvm_runtime.system import machine

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #212529; margin: 2rem auto; max-width: 1180px; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.5rem; border-bottom: 2px solid #e4e7eb; padding-bottom: .3rem; }
.machines { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(480px, 100%), 1fr)); gap: 1.5rem; }
body.wide { max-width: 1900px; } .machines > div { min-width: 0; } .scroll { overflow-x: auto; }
svg { width: 100%; min-width: 480px; height: auto; font-family: system-ui, sans-serif; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #e4e7eb; text-align: right; white-space: nowrap; }
th { background: #f8f9fa; position: sticky; top: 0; } td.text, th.text { text-align: left; }
tr:hover td { background: #f8f9fa; } p.note { color: #495057; max-width: 75ch; } details { margin: 1rem 0; }
h3 { font-size: 1rem; margin: .8rem 0 .2rem; }
"""

HOW = """Every contender's answers were compared with known ones, computed in float64, before it was timed. Contenders
take turns in short bursts, so a slow moment of the machine hits all of them; each uses one thread or all CPUs,
whichever is faster for it at that batch size; contexts are random unit vectors that share a direction; the first
calls of each burst are not counted. Ratios are medians of the ratios within rounds, in which a slow moment
cancels, and ± is the 95 % interval of that median; rounds go on until it is within 1 %, or the time is up. Noise is
that of the rate itself: (90th − 10th percentile) / median over the rounds' medians. The ceilings are the best rates
that any installed library reached in the same run, on square matrix products and on reading memory."""


def render(runs: Sequence[Run]) -> str:
    """Return the page for `runs`, several of them side by side."""
    styles = charts.Styles(runs)
    batch = _accuracy_batch(runs)
    sections = [
        ("Summary", EXPLANATION, lambda run: table_html(machine_section(run))),
        ("Throughput", "Predictions per second by batch size.", lambda run: charts.throughput(run, styles)),
        ("Latency of one context", "", lambda run: charts.latency(run, styles)),
        (
            f"Accuracy against speed, batch {batch}",
            "Up is faster, left is closer to the model that was trained.",
            lambda run: charts.accuracy(run, styles, batch),
        ),
        (
            "Roofline",
            "How much of the machine is used, for the multiply-adds that are left after exact rewriting. A contender "
            "that computes more than those shows a lower rate for it.",
            lambda run: charts.roofline(run, styles),
        ),
        (
            "Start-up, memory, concurrency, documents, files, training, export",
            "",
            lambda run: table_html(suite_rows(run, SUITES.keys() - {"forms"})),
        ),
        ("Deployment forms", "", lambda run: _folded("all forms", table_html(suite_rows(run, {"forms"})))),
        ("Every figure", "", lambda run: _folded("all contenders", table_html(full_table(run)))),
        ("Machine", "", _machine),
    ]
    body = "\n".join(_section(title, note, runs, draw) for title, note, draw in sections)
    heading = "lvm_runtime: predictions per second"
    return (
        f"<!doctype html>\n<html lang=en><head><meta charset=utf-8><title>{heading}</title>"
        f"<meta name=viewport content='width=device-width'><style>{STYLE}</style></head>\n"
        f"<body{' class=wide' if len(runs) > 1 else ''}><h1>{heading}</h1>"
        f"<p class=note>{html.escape(HOW)}</p>{body}"
        f"<h2>The reference implementation</h2>{table_html(reference_table(list(ARCHITECTURES)))}</body></html>\n"
    )


def _accuracy_batch(runs: Sequence[Run]) -> int:
    batches = sorted({row.batch for run in runs for row in run.rows})
    return 32 if 32 in batches else batches[-1] if batches else 1


def _section(title: str, note: str, runs: Sequence[Run], draw: Callable[[Run], str]) -> str:
    drawn = [(run, draw(run)) for run in runs]
    named = len(runs) > 1 and title != "Summary"  # which names the machine itself, with its versions
    cells = "".join(
        f"<div class=scroll>{_heading(run) if named else ''}{content}</div>" for run, content in drawn if content
    )
    if not cells:
        return ""
    return f"<h2>{html.escape(title)}</h2><p class=note>{_inline(note)}</p><div class=machines>{cells}</div>"


def _heading(run: Run) -> str:
    return f"<h3>{html.escape(machine.line(run.machine) + vectors_of(run))}</h3>"


def _folded(summary: str, content: str) -> str:
    return content and f"<details><summary>{html.escape(summary)}</summary>{content}</details>"


def _machine(run: Run) -> str:
    rows: list[tuple[str, Any]] = [(key.replace("_", " "), value) for key, value in run.machine.items()]
    rows += [(f"ceiling, {p['device']} {p['precision']}", _product(p)) for p in run.ceilings.get("products", ())]
    rows += [
        (f"reading {b['bytes'] / 2**20:.0f} MiB", f"{b['giga_bytes_per_second']:.0f}·10⁹ bytes/s ({b['library']})")
        for b in run.ceilings.get("bandwidths", ())
    ]
    if run.disturbed:
        rows.append(("timed beside other programs (their share of all CPUs)", run.disturbed))
    rows += [(f"not measured: {name}", reason) for name, reason in run.not_measured.items()]
    cells = "".join(f"<tr><td class=text>{html.escape(k)}<td class=text>{html.escape(_text(v))}" for k, v in rows)
    return f"<table>{cells}</table>"


def _product(product: dict[str, Any]) -> str:
    rates = sorted(product["others"].items(), key=lambda item: -item[1])
    return "10⁹ multiply-adds/s: " + ", ".join(f"{library} {rate:.0f}" for library, rate in rates)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def table_html(text: str) -> str:
    """Turn the Markdown of the tables module (paragraphs, tables, ** and *) into HTML."""
    parts = []
    for block in filter(None, text.split("\n\n")):
        lines = block.splitlines()
        if lines[0].startswith("|"):
            parts.append(f"<div class=scroll>{_table(lines)}</div>")
        elif lines[0].startswith("### "):
            parts.append(f"<h3>{_inline(lines[0][4:])}</h3>")
        else:
            parts.append(f"<p class=note>{_inline(block)}</p>")
    return "".join(parts)


def _table(lines: Sequence[str]) -> str:
    head, rule, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    kinds = ["" if mark.endswith(":") else " class=text" for mark in rule]
    top = "".join(f"<th{kind}>{_inline(cell)}</th>" for cell, kind in zip(head, kinds, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{_inline(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _inline(text: str) -> str:
    text = html.escape(text)
    for mark, tag in ((r"\*\*", "b"), (r"\*", "i"), ("`", "code")):
        text = re.sub(f"{mark}(.+?){mark}", rf"<{tag}>\1</{tag}>", text)
    return text
