"""Read a result file, or the summary of one."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.report import summary
from benchmarks.report.results import Run, from_pytest
from lvm_runtime.errors import InvalidInput


def read(path: Path) -> Run:
    """Return what a file holds; InvalidInput says what is wrong with it and how to make one."""
    how = "make one with: pytest benchmarks/ --benchmark-only --benchmark-json=FILE"
    try:
        body = json.loads(path.read_text())
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror}); {how}") from error
    except ValueError as error:
        raise InvalidInput(f"{path}: not JSON ({error}); {how}") from error
    if isinstance(body, dict) and "schema" in body:
        return summary.from_json(path.stem, body)
    if not isinstance(body, dict) or "benchmarks" not in body or "machine_info" not in body:
        raise InvalidInput(f"{path}: neither a pytest-benchmark result nor a summary of one; {how}")
    if "processor" not in body["machine_info"]:
        raise InvalidInput(f"{path}: a pytest-benchmark result of something else than benchmarks/; {how}")
    return from_pytest(path.stem, body)
