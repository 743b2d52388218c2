"""The exact search: every vector is compared with every query.

q queries, N vectors, D vector, k hits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.system.memory_maps import release_rows

_BLOCK = 8192  # rows that are in memory at a time, as float32
_ROUNDING = 2e-6  # of a cosine in float32, at D of some thousand
_TINY = 1e-15  # squares of float32 vanish below 1e-38, so shorter vectors are scaled before they are squared

Floats = NDArray[np.float32]


class ExactSearch:
    """Cosines with all vectors `[N, D]`, which may be mapped."""

    def __init__(self, vectors: NDArray[Any]) -> None:
        self._vectors = vectors

    def search(self, queries: Floats, k: int) -> NDArray[np.int64]:
        """Return for unit queries `[q, D]` the rows `[q, k]` of the k best, k at most N; of equal ones the first.

        A product of matrices rounds a cosine by the place of its row and by the other queries. So where the next best
        row is as near as that, the ones in question are compared again, each by itself.
        """
        most = min(k + 1, len(self._vectors))
        scores, rows = queries[:, :0], np.empty((len(queries), 0), np.int64)
        for begin, block in self._blocks():
            new = np.broadcast_to(np.arange(begin, begin + len(block)), (len(queries), len(block)))
            scores = np.concatenate([scores, queries @ block.T], axis=1)
            rows = np.concatenate([rows, new], axis=1)
            if scores.shape[1] > most:
                best = np.argpartition(-scores, most - 1, axis=1)[:, :most]
                scores, rows = np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
        if most == k:
            return rows
        order = np.argsort(-scores, axis=1)
        scores, rows = np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
        rows, least = rows[:, :k], scores[:, k - 1] - _ROUNDING
        unsure = np.flatnonzero(scores[:, k] >= least)
        if len(unsure):
            rows[unsure] = self._one_by_one(queries[unsure], least[unsure], k)
        return rows

    def _one_by_one(self, queries: Floats, least: Floats, k: int) -> NDArray[np.int64]:
        """Return the rows `[q, k]` of the k best, of those that reach `least` `[q]` or nearly so."""
        found: list[list[tuple[Floats, NDArray[np.int64]]]] = [[] for _ in queries]
        for begin, block in self._blocks():
            for i, cosines in enumerate(queries @ block.T):
                near = np.flatnonzero(cosines >= least[i] - _ROUNDING)
                found[i].append((np.einsum("nd,d->n", block[near], queries[i]), begin + near))
        rows = np.empty((len(queries), k), np.int64)
        for i, parts in enumerate(found):
            scores, near = (np.concatenate(column) for column in zip(*parts, strict=True))
            rows[i] = near[np.argsort(-scores, kind="stable")[:k]]
        return rows

    def _blocks(self) -> Iterator[tuple[int, Floats]]:
        for begin in range(0, len(self._vectors), _BLOCK):
            block = unit_rows(self._vectors[begin : begin + _BLOCK])
            yield begin, block
            release_rows(self._vectors, begin, begin + len(block))


@np.errstate(all="ignore")
def unit_rows(vectors: NDArray[Any]) -> Floats:
    """Return `vectors` `[…, D]` in float32, each divided by its length; zeros stay zeros."""
    found = np.array(vectors, np.float32, order="C")
    rows = found.reshape(-1, found.shape[-1])
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    tiny = np.flatnonzero(lengths < _TINY)
    if len(tiny):
        largest = np.abs(rows[tiny]).max(axis=1, keepdims=True)
        rows[tiny] = scaled = np.divide(rows[tiny], largest, out=np.zeros_like(rows[tiny]), where=largest > 0)
        lengths[tiny] = np.sqrt(np.einsum("nd,nd->n", scaled, scaled))
    np.divide(rows, lengths[:, None], out=rows, where=lengths[:, None] > 0)
    return found
