"""The documents that quote the results: docs/results.md and the README's part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.report.results import Row, Run
from benchmarks.report.suites import suite_rows
from benchmarks.report.tables import (
    EXPLANATION,
    FORMS,
    count,
    faster_peers,
    forms_of,
    machine_section,
    our_row,
    reference_table,
    span,
    vectors_of,
)
from lvm_runtime.artifact.config import CONFIGS
from lvm_runtime.commands.tables import markdown
from lvm_runtime.errors import InvalidInput, counted
from lvm_runtime.system import atomic, machine

BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
SHOWN = {"coreai", "mac"}
"""The suites without races whose tables belong to the results."""
README_BATCHES = (1, 128)
GENERATED = (
    "<!-- Made by: python -m benchmarks.report benchmarks/results/*.json --docs docs/results.md. Do not edit. -->"
)


def results_text(runs: Sequence[Run]) -> str:
    """Return every machine's table, with how it was measured."""
    models = [name for name in CONFIGS if any(name in run.models for run in runs)]
    sections = [part for run in runs for part in (machine_section(run), suite_rows(run, SHOWN))]
    return "\n\n".join(filter(None, [EXPLANATION, *sections, reference_table(models)]))


def results_page(runs: Sequence[Run], plot: str) -> str:
    """Return docs/results.md; `plot` is the name of the figure beside it."""
    machines = machine.line(runs[0].machine)
    figure = f"![Predictions per second by batch size, on {machines}]({plot})"
    return f"{GENERATED}\n\n# Results\n\n{figure}\n\n{results_text(runs).replace('### ', '## ')}\n"


def readme_section(run: Run) -> str:
    """Return the README's part: predictions per second on one machine, and how they compare."""
    rows = []
    for model in run.models:
        found = [our_row(run, model, batch, precision) for batch in README_BATCHES for precision in reversed(FORMS)]
        rows.append([CONFIGS[model].title, *(count(row.per_second if row else None) for row in found)])
    header = ("predictions/s", "int8, one context", "fp32, one context", "int8, batch of 128", "fp32, batch of 128")
    return "\n\n".join(
        (
            markdown(header, rows),
            f"Measured on {run.machine['processor']} with {counted(run.machine['cpus'], 'CPU')}{vectors_of(run)}. "
            f"{_comparison(run)}",
        )
    )


def _comparison(run: Run) -> str:
    shown = forms_of(run, README_BATCHES)
    fp32, int8 = ([row for row in shown if row.precision == precision] for precision in FORMS)
    return (
        f"Ours in fp32 runs on {_engine(fp32)} and is {_over_anchor(fp32)} times as fast as plain onnxruntime (the "
        f"same model, exported as it is, in fp32). In int8 it runs on {_engine(int8)} and is {_over_anchor(int8)} "
        f"times as fast. {faster_peers(run, README_BATCHES)} [All results](docs/results.md)"
    )


def _engine(rows: Sequence[Row]) -> str:
    native = {row.backend == "native" for row in rows}
    if len(native) > 1:
        return "the faster of the native engine and onnxruntime"
    return "the native engine" if True in native else "onnxruntime"


def _over_anchor(rows: Sequence[Row]) -> str:
    return span([row.over_anchor for row in rows if row.over_anchor])


def write_readme(path: Path, run: Run) -> None:
    """Replace what stands between the two markers of `path`; InvalidInput if they are not there, once each."""
    text = path.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise InvalidInput(f"{path}: expected one line {BEGIN} and, after it, one line {END}; the table goes between")
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    atomic.write_bytes(path, f"{head}{BEGIN}\n{readme_section(run)}\n{END}{tail}".encode())
