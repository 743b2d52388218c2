"""The report as numbers: a summary that `python -m benchmarks.report` takes beside those of other machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from lvm_runtime.system import machine

SUITE = "mac"


def entry(model: str, backend: str, device: str, precision: str, **notes: Any) -> dict[str, Any]:
    """Return one measurement; the unit of a note is in its name."""
    name = f"{SUITE}[{model}-{backend}-{device}-{precision}]"
    said = {"backend": backend, "device": device, "precision": precision, **notes}
    return {"name": name, "suite": SUITE, "model": model, "notes": said}


def to_json(entries: Sequence[dict[str, Any]]) -> str:
    """Return the summary, schema 1 of `benchmarks.report.summary`, of a run without races."""
    head = {"schema": 1, "machine": machine.describe(), "date": f"{datetime.now(timezone.utc):%Y-%m-%d}"}
    empty: dict[str, Any] = {"ceilings": {}, "not_measured": {}, "columns": [], "rows": []}
    return json.dumps(head | empty | {"entries": list(entries)}, indent=1, ensure_ascii=False) + "\n"
