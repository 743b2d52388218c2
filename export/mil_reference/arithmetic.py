"""How numbers are rounded and summed, in three modes.

* exact: float64 throughout; declared types are ignored. Shows whether the program is the right function.
* fp16: every result is rounded to the type that the program declares for it. What a device with wide
  accumulators gives.
* narrow: as fp16, and sums of fp16 values are rounded after every `BLOCK` terms, and subnormal fp16 numbers are
  flushed to zero. A pessimistic device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.errors import InvalidInput

MODES = ("exact", "fp16", "narrow")
BLOCK = 32
"""Terms that the narrow mode sums before it rounds the running total."""
SMALLEST_NORMAL = 2.0**-14
"""The smallest normal fp16 number; the narrow mode flushes what lies below it to zero, as a device may."""

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """One of the modes. Floating values are carried as float64 arrays that hold representable numbers."""

    mode: str = "exact"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InvalidInput(f"unknown mode {self.mode!r}; expected one of {', '.join(MODES)}")

    def rounded(self, value: Any, dtype: str) -> Array:
        """Return `value` as the declared `dtype` ("fp16", "fp32", "int32", "bool", …) would hold it."""
        array = np.asarray(value)
        if dtype == "bool":
            return array.astype(bool)
        if not dtype.startswith("fp"):
            return array.astype(np.int64)
        array = array.astype(np.float64)
        if self.mode == "exact":
            return array
        if dtype == "fp32":
            return array.astype(np.float32).astype(np.float64)
        array = array.astype(np.float16).astype(np.float64)
        return np.where(np.abs(array) < SMALLEST_NORMAL, 0.0, array) if self.mode == "narrow" else array

    def matmul(self, a: Array, b: Array, dtype: str) -> Array:
        """Return `a @ b` for a result of type `dtype`."""
        if not self._narrow(dtype) or a.shape[-1] <= BLOCK:
            return a @ b
        total = np.float64(0.0)
        for start in range(0, a.shape[-1], BLOCK):
            part = a[..., start : start + BLOCK] @ b[..., start : start + BLOCK, :]
            total = self.rounded(total + self.rounded(part, dtype), dtype)
        return total

    def sum(self, x: Array, axes: tuple[int, ...], keep_dims: bool, dtype: str) -> Array:
        """Sum over `axes` for a result of type `dtype`."""
        if not self._narrow(dtype):
            return x.sum(axis=axes, keepdims=keep_dims)
        kept = [axis for axis in range(x.ndim) if axis not in axes]
        rows = x.transpose(*kept, *axes).reshape(*(x.shape[axis] for axis in kept), -1)
        total = self.matmul(rows, np.ones((rows.shape[-1], 1)), dtype)[..., 0]
        return np.expand_dims(total, axes) if keep_dims else total

    def _narrow(self, dtype: str) -> bool:
        return self.mode == "narrow" and dtype == "fp16"
