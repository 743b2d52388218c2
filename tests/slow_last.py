"""A pytest plugin for `tests.mutants`: slow tests run last, so that a mutant dies before them where it can."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

STATS = Path("mutmut-stats.json")
"""Where mutmut keeps how long each test took, in the folder that it runs tests in."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the tests, those of half a second and more behind the others.

    mutmut names them in no order, which would set up the fixtures of a file again and again.
    """
    seconds = json.loads(STATS.read_text())["duration_by_test"] if STATS.exists() else {}
    items.sort(key=lambda item: (seconds.get(item.nodeid, 0.0) >= 0.5, str(item.path), item.location[1] or 0))
