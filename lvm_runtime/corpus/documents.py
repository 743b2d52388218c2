"""Which document each vector belongs to, and the windows that lie within one.

A document is a run of equal ids. N vectors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.errors import InvalidInput
from lvm_runtime.system.memory_maps import release_rows

_BLOCK = 65_536


class DocumentIds:
    """Ids gathered block by block: integers stay as they are, strings are numbered in order of appearance."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._blocks: list[NDArray[Any]] = []
        self._numbers: dict[Any, int] = {}
        self._last: Any = None

    def add(self, ids: NDArray[Any]) -> None:
        """Append ids `[n]`. Raises InvalidInput for anything but integers, strings or bytes."""
        if isinstance(ids, np.ma.MaskedArray):
            raise InvalidInput(f"{self._path}: doc_ids is a masked array; each vector needs an id")
        if ids.dtype.kind in "iu":
            self._blocks.append(np.array(ids, dtype=np.uint64 if ids.dtype.kind == "u" else np.int64))
        elif ids.dtype.kind in "USO":
            self._blocks.append(self._number(ids))
        else:
            raise InvalidInput(f"{self._path}: doc_ids are {ids.dtype}, expected integers or strings")

    def _number(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        if not len(ids):
            return np.empty(0, np.int64)
        begins = run_begins(ids)
        try:
            names = ids[begins].tolist()
        except SystemError as error:  # a number that is no character
            raise InvalidInput(f"{self._path}: doc_ids hold what is no text ({error})") from error
        numbers = [self._numbers.setdefault(name, len(self._numbers)) for name in names]
        return np.repeat(np.array(numbers, np.int64), np.diff([*begins.tolist(), len(ids)]))

    def together(self) -> NDArray[Any]:
        """Return all ids `[N]` as int64, or uint64 where that does not hold them.

        Raises InvalidInput for a document that comes back after another one.
        """
        ids = np.concatenate(self._blocks) if self._blocks else np.empty(0, np.int64)
        if ids.dtype == np.uint64 and (not len(ids) or ids.max() <= np.iinfo(np.int64).max):
            ids = ids.view(np.int64)
        begins = run_begins(ids)
        _, firsts = np.unique(ids[begins], return_index=True)
        if len(firsts) < len(begins):
            row = int(np.delete(begins, firsts)[0])
            name = list(self._numbers)[ids[row]] if self._numbers else int(ids[row])
            raise InvalidInput(
                f"{self._path}: document {name!r:.99} comes back at row {row} after another document; "
                "expected each document's vectors together"
            )
        return ids


def read_ids(path: Path, ids: NDArray[Any], count: int) -> NDArray[Any]:
    """Return `ids` `[N]` of `count` vectors, as the file `path` holds them, as exact integers.

    Documents may be in any order. Raises InvalidInput for one that comes back after another one, and as `add` does.
    """
    if ids.shape != (count,):
        raise InvalidInput(f"{path}: doc_ids have shape {list(ids.shape)}, expected [{count}], one for each vector")
    found = DocumentIds(path)
    for begin in range(0, max(count, 1), _BLOCK):
        found.add(ids[begin : begin + _BLOCK])
        release_rows(ids, begin, min(begin + _BLOCK, count))
    return found.together()


def run_begins(ids: NDArray[Any]) -> NDArray[np.int64]:
    """Return where in `ids` `[N]` each run of equal ids begins."""
    if not len(ids):
        return np.empty(0, np.int64)
    return np.concatenate([[0], np.flatnonzero(ids[1:] != ids[:-1]) + 1])


def window_starts(count: int, doc_ids: NDArray[Any] | None, rows: int) -> NDArray[np.int64]:
    """Return the first vector of every window of `rows` vectors, of `count`, that lies within one document.

    `doc_ids` `[count]` of None means that all vectors are of one document.
    """
    if doc_ids is None or count < rows:
        return np.arange(max(0, count - rows + 1))
    return np.flatnonzero(doc_ids[rows - 1 :] == doc_ids[: count - rows + 1]).astype(np.int64, copy=False)
