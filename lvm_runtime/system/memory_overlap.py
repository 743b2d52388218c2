"""Whether arrays lie on each other in memory."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WORK = 10_000  # of the exact test, which is hard for odd strides; beyond that, arrays count as overlapping


def overlap(out: NDArray[Any], source: NDArray[Any]) -> bool:
    """Say whether writing `out` changes `source`: they share memory, or two mappings of the same part of a file.

    True where finding out would take long.
    """
    try:
        return np.shares_memory(out, source, max_work=_WORK) or _share_a_file(out, source)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def _share_a_file(out: NDArray[Any], source: NDArray[Any]) -> bool:
    mapped, read = _mapped(out), _mapped(source)
    if mapped is None or read is None or mapped.base is read.base or mapped.mode == "c" or not out.size * source.size:
        return False
    begin, end = _bytes(out, mapped)
    first, last = _bytes(source, read)
    return begin < last and first < end and os.path.samefile(mapped.filename, read.filename)


def _mapped(array: Any) -> Any:
    """Return the mapping of a file, as it was made, that `array` is a view of, None if it is none."""
    found = None
    while isinstance(array, np.ndarray):
        found = array if isinstance(array, np.memmap) and os.path.exists(array.filename or "") else found
        array = array.base
    return found


def _bytes(array: NDArray[Any], mapped: Any) -> tuple[int, int]:
    """Return the first byte of the file that `array` lies on, and the one after the last."""
    reach = [stride * (length - 1) for stride, length in zip(array.strides, array.shape, strict=True)]
    begin = array.ctypes.data - mapped.ctypes.data + mapped.offset
    return begin + sum(min(r, 0) for r in reach), begin + sum(max(r, 0) for r in reach) + array.itemsize


def overlaps_itself(array: NDArray[Any]) -> bool:
    """Say whether two elements of an array may lie on each other, as with strides of 0 or of sliding windows."""
    reach = array.itemsize
    for stride, length in sorted(
        (abs(stride), length) for stride, length in zip(array.strides, array.shape, strict=True)
    ):
        if length > 1:
            if stride < reach:
                return True
            reach += stride * (length - 1)
    return False
