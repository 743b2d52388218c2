"""Cover any number of rows with the batch sizes that a backend takes, as cheaply as possible.

A run of a batch of `size` costs about a dispatch and `size` rows, the padded ones included. A dispatch to the Neural
Engine takes about 0.2 ms, as much as a few rows do; `DISPATCH` is that, in rows.

b batch, T context length, D vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from math import inf
from typing import Protocol

import numpy as np

from lvm_runtime.backends.base import Array, Backend
from lvm_runtime.contexts import is_usable

DISPATCH = 8
"""What one more run costs, counted in rows."""


@lru_cache(maxsize=4096)
def plan_batches(rows: int, sizes: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Return (batch size, rows used) of each run that together cover `rows`, the largest runs first.

    The mix is the cheapest one: 33 rows over sizes 1, 8, 32 and 128 are 32 + 1, not 128; 7 rows are one run of 8.
    """
    largest = max(sizes)
    whole = max(rows // largest - 1, 0)  # beyond two of the largest, only the largest can be cheapest
    best: list[tuple[int, tuple[int, ...]]] = [(0, ())]
    for left in range(1, rows - whole * largest + 1):
        best.append(
            min(
                (best[max(left - size, 0)][0] + DISPATCH + size, (*best[max(left - size, 0)][1], size))
                for size in sizes
            )
        )
    chosen = [largest] * whole + sorted(best[-1][1], reverse=True)
    plan = []
    for size in chosen:
        plan.append((size, min(size, rows)))
        rows -= plan[-1][1]
    return tuple(plan)


class Runner(Protocol):
    """What predicts for contexts: a backend, or what stands in front of one."""

    def run(self, contexts: Array) -> Array:
        """Return predictions `[b, D]` for contiguous contexts `[b, T, D]`."""

    def run_with_attention(self, contexts: Array) -> tuple[Array, Array]:
        """Return predictions `[b, D]` and attention `[b, T]`."""


class AnyBatch:
    """Run any number of rows, b ≥ 1, on a backend that takes only batches of `sizes`; what is left over is cut off.

    Each size may be a program of its own. Where `prove` is set, it is called with a size before the first run of that
    size; what it raises comes out of that run.
    """

    def __init__(self, backend: Runner, sizes: tuple[int, ...], *, largest_norm: float = inf) -> None:
        self._backend = backend
        self._sizes = sizes
        self._largest_norm = largest_norm
        self._ran: set[int] = set()
        self.prove: Callable[[int], object] | None = None

    def run(self, contexts: Array) -> Array:
        """Return predictions `[b, D]` for contexts `[b, T, D]`."""
        return np.concatenate([self._backend.run(batch)[:used] for batch, used in self._batches(contexts)])

    def run_usable(self, contexts: Array) -> Array | None:
        """Return predictions `[b, D]`, or None if a vector is not finite or longer than `largest_norm`."""
        return self.run(contexts) if is_usable(contexts, self._largest_norm) else None

    def run_with_attention(self, contexts: Array) -> tuple[Array, Array]:
        """Return predictions `[b, D]` and attention `[b, T]`."""
        parts = [(self._backend.run_with_attention(batch), used) for batch, used in self._batches(contexts)]
        predictions = np.concatenate([p[:used] for (p, _), used in parts])
        return predictions, np.concatenate([a[:used] for (_, a), used in parts])

    def _batches(self, contexts: Array) -> Iterator[tuple[Array, int]]:
        """Yield batches and how many rows of each count; the last one is filled up with copies of its last row."""
        start = 0
        for size, used in plan_batches(len(contexts), self._sizes):
            if size not in self._ran:
                if self.prove is not None:
                    self.prove(size)
                self._ran.add(size)
            batch = contexts[start : start + used]
            if used < size:
                batch = np.concatenate([batch, np.repeat(batch[-1:], size - used, axis=0)])
            yield batch, used
            start += used


def any_batch(backend: Backend) -> Backend | AnyBatch:
    """Return what runs any number of rows on `backend`: the backend itself unless its batch sizes are fixed."""
    sizes = backend.batch_sizes
    return backend if sizes is None else AnyBatch(backend, sizes, largest_norm=backend.largest_norm)
