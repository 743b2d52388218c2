"""The suites in which contenders do not race: start-up, documents, bulk files, training, export."""

from __future__ import annotations

from typing import Any

from benchmarks.report.results import Run
from benchmarks.report.tables import markdown

_SHOWN_ELSEWHERE = ("suite",)


def suite_rows(run: Run) -> str:
    """Return a Markdown table of a run's other entries: name, median time, and what each test noted of itself."""
    rows = []
    for entry in run.others:
        notes = "; ".join(
            f"{k.replace('_', ' ')} {_value(v)}" for k, v in entry["extra_info"].items() if _is_note(k, v)
        )
        rows.append([entry["name"].removeprefix("test_"), notes, seconds(entry["stats"]["median"])])
    return markdown(["measurement", "notes", "median"], rows, left=2) if rows else ""


def seconds(value: float) -> str:
    """Format a duration with a fitting unit."""
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.2g} s"


def _is_note(key: str, value: Any) -> bool:
    return key not in _SHOWN_ELSEWHERE and isinstance(value, str | int | float) and value != ""


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", "/")
