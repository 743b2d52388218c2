"""What a model has done since it was loaded, in the form of the protocol's statistics extension."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any


class Statistics:
    """Counts and times of one model in one process; the worker thread adds batches, the event loop requests."""

    def __init__(self) -> None:
        self._succeeded = self._failed = self._contexts = self._nanoseconds = self._last = 0
        self._batches: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])  # size to count and nanoseconds

    def succeeded(self, contexts: int, seconds: float) -> None:
        """Add a request that was answered."""
        self._succeeded += 1
        self._contexts += contexts
        self._nanoseconds += int(seconds * 1e9)
        self._last = time.time_ns() // 1_000_000

    def failed(self) -> None:
        """Add a request that was refused or failed."""
        self._failed += 1

    def ran(self, contexts: int, seconds: float) -> None:
        """Add a batch."""
        batch = self._batches[contexts]
        batch[0] += 1
        batch[1] += int(seconds * 1e9)

    def to_dict(self, name: str, version: str) -> dict[str, Any]:
        """Return the statistics as plain JSON values."""
        batches = {size: tuple(batch) for size, batch in sorted(self._batches.copy().items())}
        return {
            "name": name,
            "version": version,
            "last_inference": self._last,
            "inference_count": self._contexts,
            "execution_count": sum(count for count, _ in batches.values()),
            "inference_stats": {
                "success": {"count": self._succeeded, "ns": self._nanoseconds},
                "fail": {"count": self._failed, "ns": 0},
                "compute_infer": {
                    "count": sum(count for count, _ in batches.values()),
                    "ns": sum(nanoseconds for _, nanoseconds in batches.values()),
                },
            },
            "batch_stats": [
                {"batch_size": size, "compute_infer": {"count": count, "ns": nanoseconds}}
                for size, (count, nanoseconds) in batches.items()
            ],
        }
