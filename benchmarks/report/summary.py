"""The summary of a result file: all that the report, `--against` and `--rerun` need, in a tenth of the size.

    {"schema": 1, "machine": {…}, "date": "2026-11-25", "ceilings": {…}, "not_measured": {name: reason, …},
     "columns": [name, …], "rows": [[value, …], …], "entries": [{"name", "suite", "model", "notes": {…}}, …]}

A row is a contender in one cell, with the names of `harness.record`; an entry is a test of the other suites.
Figures keep five digits, those of single rounds four. Of the ratios to other contenders, those to plain onnxruntime
and to the best peer are kept.
"""

from __future__ import annotations

import json
from typing import Any

from benchmarks.harness.contender import ANCHOR
from benchmarks.report.results import Entry, Run, rows_of
from lvm_runtime.errors import InvalidInput

SCHEMA = 1
DIGITS = 5
_DIGITS = {"round_milliseconds": 4}
COLUMNS = (
    "model", "dim", "batch", "contender", "ours", "precision", "device", "threads", "predictions_per_second", "noise",
    "drift", "cpus_busy_elsewhere", "macs_rewritten", "giga_macs_per_second", "weight_bytes",
    "share_of_product_ceiling", "share_of_roofline", "best_peer_at_equal_precision", "ratio_to_best_peer",
    "milliseconds", "speedup", "speedup_interval", "round_milliseconds",
)  # fmt: skip


def to_json(run: Run) -> str:
    """Return the summary of `run`, a row to a line."""
    head = {
        "schema": SCHEMA,
        "machine": run.machine,
        "date": run.date,
        "ceilings": _short(run.ceilings),
        "not_measured": run.not_measured,
        "columns": COLUMNS,
    }
    parts = [f" {json.dumps(key)}: {_dump(value)}" for key, value in head.items()]
    parts.append(_lines("rows", [[_kept(row.record, name) for name in COLUMNS] for row in run.rows]))
    entries = [{"name": e.name, "suite": e.suite, "model": e.model, "notes": _short(e.notes)} for e in run.entries]
    parts.append(_lines("entries", entries))
    return "{\n" + ",\n".join(parts) + "\n}\n"


def from_json(name: str, body: dict[str, Any]) -> Run:
    """Return the run of a summary that was read; InvalidInput for one of another schema."""
    if body["schema"] != SCHEMA:
        raise InvalidInput(f"{name}: a summary of schema {body['schema']!r}, expected {SCHEMA}; make it anew")
    return Run(
        name=name,
        machine=body["machine"],
        rows=rows_of(dict(zip(body["columns"], row, strict=True)) for row in body["rows"]),
        entries=tuple(Entry(**entry) for entry in body["entries"]),
        ceilings=body["ceilings"],
        not_measured=body["not_measured"],
        date=body["date"],
    )


def _kept(record: dict[str, Any], name: str) -> Any:
    if name == "speedup":
        return _short({over: ratio for over, ratio in record["speedup"].items() if over == ANCHOR})
    return _short(record.get(name, {} if name == "speedup_interval" else None), _DIGITS.get(name, DIGITS))


def _short(value: Any, digits: int = DIGITS) -> Any:
    """Return `value` with so many digits in every float."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {key: _short(part, digits) for key, part in value.items()}
    return [_short(part, digits) for part in value] if isinstance(value, list | tuple) else value


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _lines(key: str, values: list[Any]) -> str:
    return f' "{key}": [\n' + ",\n".join(f"  {_dump(value)}" for value in values) + "\n ]"
