"""Whether arrays lie on each other in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_WORK = 10_000  # of the exact test, which is hard for odd strides; beyond that, arrays count as overlapping


def overlap(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Say whether two arrays share memory; True where finding out would take long."""
    try:
        return np.shares_memory(a, b, max_work=_WORK)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


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
