"""Write a comparison: Markdown, JSON and one HTML page."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lvm_runtime.system import atomic

from .page import page
from .runs import Run, read_run, windows_of
from .search import search_markdown
from .table import markdown


def compare(folders: list[Path], out: Path) -> str:
    """Write comparison.md, .json and .html into `out`, and return the table as Markdown.

    Raises ArtifactError for a folder without a run's figures, InvalidInput for runs that cannot be compared and
    WriteFailed, before anything is measured, where `out` cannot be written.
    """
    atomic.require_writable(out / "comparison.md")
    runs = [read_run(folder) for folder in folders]
    remarks = []
    if len({windows_of(run) for run in runs}) > 1:
        remarks.append("These runs were validated on different windows: compare their gains and not their cosines.")
    text = f"{search_markdown(runs)}\n{markdown(runs, remarks)}"
    document = {"remarks": remarks, "runs": [_entry(run) for run in runs]}
    atomic.write_files(
        out,
        {
            "comparison.md": text.encode(),
            "comparison.json": (json.dumps(document, indent=2) + "\n").encode(),
            "comparison.html": page(runs, remarks).encode(),
        },
    )
    return f"{text}\nwritten to {out}: comparison.md, comparison.json, comparison.html"


def _entry(run: Run) -> dict[str, Any]:
    kept = ("history", "validation", "test")
    return asdict(run.row) | {name: run.result[name] for name in kept}
