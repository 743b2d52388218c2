"""The suites in which contenders do not race: start-up, documents, bulk files, training, export.

Each has a table of its own, whose columns are what its tests noted of themselves; the unit is in the name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from benchmarks.report.results import Entry, Run
from benchmarks.report.tables import count
from lvm_runtime.artifact.config import CONFIGS
from lvm_runtime.commands.tables import markdown

SUITES = {
    "forms": "Forms without the Predictor, one thread, against the targets",
    "sequence": "A document of 1,000 chunks",
    "startup": "From a fresh process to the first prediction",
    "overhead": "What the Predictor adds to the backend's own call",
    "concurrency": "64 callers with one context each",
    "bulk": "From file to file",
    "training_loop": "Training against the obvious loop",
    "export": "Exports, verification included",
    "coreai": "Conversions to Core AI, executed on the CPU",
    "mac": "A Mac, by backend and device",
}
_LEFT_OUT = {"norm", "torch"}
"""What a test noted and checks by itself."""


def suite_rows(run: Run, suites: Collection[str]) -> str:
    """Return a Markdown heading and table for each of `suites` that a run's other entries belong to."""
    parts = []
    for suite, title in SUITES.items():
        if suite not in suites:
            continue
        entries = [entry for entry in run.entries if entry.suite == suite]
        if entries:
            parts += [f"### {title}", _table(entries)]
    return "\n\n".join(parts)


def _table(entries: list[Entry]) -> str:
    notes = [dict(_flat(entry.notes)) for entry in entries]
    columns = list(dict.fromkeys(key for note in notes for key in note))
    text = [key for key in columns if any(isinstance(note.get(key), str) for note in notes)]
    columns = text + [key for key in columns if key not in text]
    rows = [
        [_title(entry.model), *(value(key, note.get(key)) for key in columns)]
        for entry, note in zip(entries, notes, strict=True)
    ]
    return markdown(["model", *map(_header, columns)], rows, left=1 + len(text))


def _flat(notes: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, note in notes.items():
        if isinstance(note, dict):
            yield from ((f"{key}, {inner}", number) for inner, number in note.items())
        elif key not in _LEFT_OUT:
            yield key, note


def _title(model: str) -> str:
    return CONFIGS[model].title if model in CONFIGS else model or "–"


def _header(key: str) -> str:
    words = key.replace("_per_second", "/s").replace("_ms", ", ms").replace("_microseconds", ", µs")
    return words.replace("_megabytes", ", MB").replace("_", " ")


def value(key: str, note: Any) -> str:
    """Format what a test noted under `key`, whose name says the unit."""
    if note is None:
        return "–"
    if isinstance(note, list):
        return " – ".join(value(key, part) for part in note)
    if isinstance(note, str) or not isinstance(note, int | float):
        return str(note).replace("|", "/")
    if "per_second" in key:
        return count(note)
    if key == "bytes":
        return f"{note / 1e6:.1f} MB"
    if key == "noise" or "share" in key:
        return f"{note:.0%}"
    if "ratio" in key or key in ("minimum", "aim"):
        return f"{note:.2f}"
    if key == "drift":
        return f"{note:.0e}"
    return f"{note:,}" if isinstance(note, int) else f"{note:,.0f}" if abs(note) >= 1000 else f"{note:.3g}"
