"""Cover any number of rows with the batch sizes that a package takes, as cheaply as possible.

A run of a batch of `size` costs about a dispatch and `size` rows, the padded ones included. A dispatch to the Neural
Engine takes about 0.2 ms, as much as a few rows do; `DISPATCH` is that, in rows.
"""

from __future__ import annotations

from functools import lru_cache

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
