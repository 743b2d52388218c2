"""The exact search: every vector is compared with every query.

q queries, N vectors, D vector, k hits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.system.memory_maps import release_rows

_BLOCK = 8192  # rows that are in memory at a time, as float32
_TINY = 1e-15  # squares of float32 vanish below 1e-38, so shorter vectors are scaled before they are squared

Floats = NDArray[np.float32]


class ExactSearch:
    """Cosines with all vectors `[N, D]`, which may be mapped."""

    def __init__(self, vectors: NDArray[Any]) -> None:
        self._vectors = vectors

    def search(self, queries: Floats, k: int) -> NDArray[np.int64]:
        """Return for unit queries `[q, D]` the rows `[q, k]` of the k best, k at most N."""
        scores, rows = queries[:, :0], np.empty((len(queries), 0), np.int64)
        for begin in range(0, len(self._vectors), _BLOCK):
            block = unit_rows(self._vectors[begin : begin + _BLOCK])
            new = np.broadcast_to(np.arange(begin, begin + len(block)), (len(queries), len(block)))
            scores = np.concatenate([scores, queries @ block.T], axis=1)
            rows = np.concatenate([rows, new], axis=1)
            if scores.shape[1] > k:
                best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
                scores, rows = np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
            release_rows(self._vectors, begin, begin + len(block))
        return rows


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
