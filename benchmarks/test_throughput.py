"""Predictions per second at the batch sizes of a service and of a bulk job."""

from __future__ import annotations

from typing import Any

BATCHES = (8, 32, 128, 1024)


def test_throughput(measured: dict[str, Any]) -> None:
    """Time `predict` on a batch; every row of its answer was checked before."""
    assert measured["predictions_per_second"] > 0
