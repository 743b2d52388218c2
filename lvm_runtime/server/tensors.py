"""Tensors of the protocol as numpy arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.contexts import holds_booleans
from lvm_runtime.errors import InvalidInput

DATATYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "FP16": np.dtype("<f2"), "FP64": np.dtype("<f8")}


@dataclass(frozen=True, slots=True)
class Layout:
    """How the bytes of a tensor are read."""

    dtype: np.dtype[Any]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, name: str, datatype: Any, shape: Any, size: int) -> Layout:
        """Return what a request says about a tensor; InvalidInput if `size` bytes do not fill its shape."""
        dtype, sizes = _dtype(name, datatype), _sizes(name, shape)
        expected = math.prod(sizes) * dtype.itemsize
        if size != expected:
            raise InvalidInput(f"{name}: {size} bytes, expected {expected} for {datatype} {sizes}")
        return cls(dtype, tuple(sizes))

    def read(self, data: bytes | memoryview) -> NDArray[Any]:
        """Return the tensor whose numbers are `data`."""
        return np.frombuffer(data, self.dtype).reshape(self.sizes)


def from_numbers(name: str, datatype: Any, shape: Any, data: Any) -> NDArray[Any]:
    """Return the tensor whose numbers are the list `data`, flat or nested as its shape is."""
    dtype, sizes = _dtype(name, datatype), _sizes(name, shape)
    try:
        array = np.asarray(data)
    except ValueError as error:
        raise InvalidInput(f"{name}: data are lists of unequal lengths; expected {sizes}") from error
    if (array.dtype.kind not in "iuf" and array.size) or holds_booleans(data, array):
        raise InvalidInput(f"{name}: data hold something else than numbers")
    if array.size != math.prod(sizes) or (array.ndim > 1 and array.shape != tuple(sizes)):
        raise InvalidInput(f"{name}: data of shape {list(array.shape)}, expected {sizes}, flat or nested")
    with np.errstate(over="ignore"):  # an overflow to infinity is refused with its row, as any infinity is
        return array.astype(dtype).reshape(sizes)


def _dtype(name: str, datatype: Any) -> np.dtype[Any]:
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise InvalidInput(f"{name}: datatype is {datatype!r:.99}, expected one of {', '.join(DATATYPES)}")
    return DATATYPES[datatype]


def _sizes(name: str, shape: Any) -> list[int]:
    if not isinstance(shape, list) or len(shape) > 3 or not all(type(n) is int and 0 <= n < 1 << 30 for n in shape):
        raise InvalidInput(f"{name}: shape is {shape!r:.99}, expected a list of whole numbers, [B, T, D]")
    return shape
