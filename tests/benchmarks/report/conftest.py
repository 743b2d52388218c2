"""A result file for the tests of the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks.report.sample import MACHINE, SPEEDS, entry


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """A result file with four contenders at two batch sizes, and one entry of another suite."""
    ceiling = {"device": "cpu", "precision": "fp32", "giga_macs_per_second": 90.0, "library": "numpy"}
    other = {"name": "test_export[amn]", "extra_info": {"suite": "export", "bytes": 12345}, "stats": {"median": 0.25}}
    body = {
        "machine_info": MACHINE,
        "datetime": "2026-01-02T03:04:05",
        "benchmarks": [*(entry(name, batch) for name in SPEEDS for batch in (1, 32)), other],
        "ceilings": {
            "products": [ceiling | {"others": {"numpy": 90.0, "torch": 70.0}}],
            "bandwidths": [{"bytes": 2**23, "giga_bytes_per_second": 50.0, "library": "numpy"}],
        },
        "not_measured": {"lvm-coreml-fp16-ane": "Core ML runs on macOS only"},
    }
    path = tmp_path / "here.json"
    path.write_text(json.dumps(body))
    return path
