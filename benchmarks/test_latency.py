"""One context at a time: median, p95 and p99 of the wait."""

from __future__ import annotations

from typing import Any

BATCHES = (1,)


def test_latency(measured: dict[str, Any]) -> None:
    """Time `predict` on one context; its answer was checked before."""
    assert measured["predictions_per_second"] > 0
