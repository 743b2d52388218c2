"""Memory-mapped arrays that are used once, from front to back.

Their pages count as this process's memory until something else needs it, so that a file of 15 GB seems to take
15 GB. Pages that are done with are handed back; what was written to them is in the system's cache by then.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PIECE = 1 << 21
_SHARED = ("r", "r+", "w+")


def mapping_of(array: NDArray[Any]) -> mmap.mmap | None:
    """Return the file mapping that `array` is a view of, None if it is none or a private one.

    A private mapping (mode "c") keeps changes in its pages only, and would lose them.
    """
    mode = None
    owner: Any = array
    while isinstance(owner, np.ndarray):
        mode = getattr(owner, "mode", mode)
        owner = owner.base
    return owner if isinstance(owner, mmap.mmap) and mode in _SHARED else None


def advise_sequential(mapping: mmap.mmap | None) -> None:
    """Tell the system that a mapping is read from front to back, where it can be told."""
    if mapping is not None and hasattr(mapping, "madvise"):
        mapping.madvise(mmap.MADV_SEQUENTIAL)


def release(mapping: mmap.mmap | None, start: int = 0, stop: int | None = None) -> None:
    """Hand the pages of a mapping back to the system, or those of its bytes start to stop.

    They are read again if they are used again.
    """
    if mapping is not None and hasattr(mapping, "madvise"):
        start -= start % mmap.PAGESIZE
        mapping.madvise(mmap.MADV_DONTNEED, start, (len(mapping) if stop is None else stop) - start)


def release_rows(array: NDArray[Any], start: int, stop: int) -> None:
    """Hand back the pages of rows start to stop of an array `[n, …]` in C order, if it is mapped.

    A file that was just written lies in the cache in pieces of up to 2 MB, and Linux maps a piece as a whole whenever a
    page of it is used. So the pages are handed back from the beginning of their piece on.
    """
    mapping = mapping_of(array)
    if mapping is not None:
        first = array.ctypes.data - np.frombuffer(mapping, np.uint8).ctypes.data
        begin = first + start * array.strides[0]
        release(mapping, begin - begin % _PIECE, first + stop * array.strides[0])
