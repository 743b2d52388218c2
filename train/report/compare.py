"""Write a comparison: Markdown, JSON and one HTML page."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
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
    runs = _told_apart([read_run(folder) for folder in folders], folders)
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


def _told_apart(runs: list[Run], folders: list[Path]) -> list[Run]:
    """Return the runs with their paths as names where two have the same, as those of two folders of artifacts do."""
    counts = Counter(run.row.name for run in runs)
    paths = [str(folder.with_name(run.row.name)) for run, folder in zip(runs, folders, strict=True)]
    return [
        run if counts[run.row.name] == 1 else replace(run, row=replace(run.row, name=path))
        for run, path in zip(runs, paths, strict=True)
    ]


def _entry(run: Run) -> dict[str, Any]:
    kept = ("history", "validation", "test")
    return asdict(run.row) | {name: run.result[name] for name in kept}
