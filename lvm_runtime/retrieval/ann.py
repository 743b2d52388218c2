"""The approximate search: an inverted file of faiss over int8 codes, whose best candidates are compared exactly.

Vectors are grouped around some 2·√N centroids, and a query looks into the nearest groups only. The codes say which
vectors to look at; the scores come from the corpus itself, so that int8 costs no accuracy of theirs.

q queries, N vectors, D vector, k hits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.errors import InvalidInput, counted, one_line
from lvm_runtime.retrieval.exact import unit_rows
from lvm_runtime.system import extras
from lvm_runtime.system.memory_maps import release_rows

FILE = "vectors.faiss"
GROUPS_LOOKED_INTO = 32
"""Measured: recall@10 of 0.999 at 10⁶ vectors of 384; docs/experiments has the figures."""

CANDIDATES = 4
"""Candidates for each hit, compared exactly."""

_BLOCK = 50_000
_SEED = 0
_SAMPLE = 40  # vectors for each centroid that it is fitted to


class AnnSearch:
    """An index of `count` vectors of `dim`. Raises BackendUnavailable without faiss, InvalidInput for another file."""

    def __init__(self, path: Path, count: int, dim: int) -> None:
        self._faiss = _import_faiss()
        try:
            self._index = self._faiss.read_index(str(path))
            self._groups = int(self._faiss.extract_index_ivf(self._index).nlist)
        except RuntimeError as error:
            raise InvalidInput(f"{path}: cannot be read by faiss ({one_line(error, 300)})") from error
        if (self._index.ntotal, self._index.d) != (count, dim):
            found = [self._index.ntotal, self._index.d]
            raise InvalidInput(f"{path}: index of {found}, expected {[count, dim]}; make the index again")
        self._count = count

    def search(self, queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """Return for unit queries `[q, D]` the rows `[q, c]` of k or more candidates, k at most N; −1 for none."""
        wanted = min(max(CANDIDATES * k, 10), self._count)
        probes = GROUPS_LOOKED_INTO
        while True:
            parameters = self._faiss.SearchParametersIVF(nprobe=probes)
            rows: NDArray[np.int64] = self._index.search(queries, wanted, params=parameters)[1]
            if probes >= self._groups or (rows[:, :k] >= 0).all():
                return rows
            probes *= 4  # these groups hold fewer than k vectors


def build_ann(vectors: NDArray[Any], path: Path, report: Callable[[str], None]) -> None:
    """Write the index of vectors `[N, D]`, which may be mapped, to a file. Raises BackendUnavailable without faiss."""
    faiss = _import_faiss()
    count, dim = vectors.shape
    groups = min(2 ** round(math.log2(2 * math.sqrt(count))), max(1, count // 39))
    index = faiss.index_factory(dim, f"IVF{groups},SQ8", faiss.METRIC_INNER_PRODUCT)
    sample = np.sort(np.random.default_rng(_SEED).choice(count, min(count, _SAMPLE * groups), replace=False))
    report(f"grouping {counted(len(sample), 'vector')} around {counted(groups, 'centroid')}")
    index.train(unit_rows(vectors[sample]))
    report(f"adding {counted(count, 'vector')}")
    for begin in range(0, count, _BLOCK):
        index.add(unit_rows(vectors[begin : begin + _BLOCK]))
        release_rows(vectors, begin, min(begin + _BLOCK, count))
    faiss.write_index(index, str(path))


def _import_faiss() -> Any:
    return extras.require("search", "a search among many vectors", "faiss")
