"""Slices, gathers and scatters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..arithmetic import Array
from ..registry import Call, operation


@operation("slice_by_index")
def slice_by_index(call: Call) -> Array:
    """Slice from begin to end by stride; masks leave an end open, or drop an axis."""
    x = call["x"]
    begin, end, stride = call.ints("begin"), call.ints("end"), call.ints("stride", [1] * x.ndim)
    open_begin, open_end, drop = (call.ints(name, [0] * x.ndim) for name in ("begin_mask", "end_mask", "squeeze_mask"))
    index: list[Any] = []
    for axis in range(x.ndim):
        if drop[axis]:
            index.append(begin[axis])
        else:
            first = None if open_begin[axis] else begin[axis]
            index.append(slice(first, None if open_end[axis] else end[axis], stride[axis]))
    return x[tuple(index)]


@operation("slice_by_size")
def slice_by_size(call: Call) -> Array:
    """Slice `size` elements from `begin`; −1 takes all that follow."""
    pairs = zip(call.ints("begin"), call.ints("size"), strict=True)
    return call["x"][tuple(slice(b, None if size == -1 else b + size) for b, size in pairs)]


@operation("gather")
def gather(call: Call) -> Array:
    """Take along an axis by index, within batches if `batch_dims` says so."""
    x, indices, axis = np.asarray(call["x"]), np.asarray(call["indices"]), int(call.get("axis", 0))
    batches = int(call.get("batch_dims", 0))
    axis %= x.ndim
    if not batches:
        return np.take(x, indices, axis=axis)
    rows = x.reshape(-1, *x.shape[batches:])
    picks = indices.reshape(-1, *indices.shape[batches:])
    taken = [np.take(row, pick, axis=axis - batches) for row, pick in zip(rows, picks, strict=True)]
    return np.stack(taken).reshape(*x.shape[:batches], *taken[0].shape)


@operation("gather_along_axis")
def gather_along_axis(call: Call) -> Array:
    """Take one element per index along an axis."""
    return np.take_along_axis(call["x"], call["indices"], axis=int(call.get("axis", 0)))


@operation("gather_nd")
def gather_nd(call: Call) -> Array:
    """Take slices by index tuples (the last axis of `indices`)."""
    if int(call.get("batch_dims", 0)):
        raise call.unsupported("batch_dims")
    return call["x"][tuple(np.moveaxis(call["indices"], -1, 0))]


_UPDATES: dict[str, Callable[[Array, Any, Array], None]] = {
    "add": np.add.at,
    "sub": np.subtract.at,
    "mul": np.multiply.at,
    "div": np.true_divide.at,
    "max": np.maximum.at,
    "min": np.minimum.at,
    "update": lambda data, index, value: data.__setitem__(index, value),
}


def _scattered(call: Call, index: Any, updates: Array, default: str) -> Array:
    mode = str(call.get("mode", default))
    if mode not in _UPDATES:
        raise call.unsupported(f"mode {mode!r}")
    data = np.array(call["data"])
    _UPDATES[mode](data, index, updates)
    return data


@operation("scatter")
def scatter(call: Call) -> Array:
    """Write whole slices at indices along an axis."""
    data, indices, axis = call["data"], call["indices"], int(call.get("axis", 0))
    index = (slice(None),) * (axis % data.ndim) + (indices,)
    return _scattered(call, index, call["updates"], "add")


@operation("scatter_along_axis")
def scatter_along_axis(call: Call) -> Array:
    """Write one element per index along an axis."""
    data, indices, axis = call["data"], call["indices"], int(call.get("axis", 0))
    index = list(np.indices(indices.shape))
    index[axis % data.ndim] = indices
    return _scattered(call, tuple(index), call["updates"], "add")


@operation("scatter_nd")
def scatter_nd(call: Call) -> Array:
    """Write slices at index tuples (the last axis of `indices`)."""
    return _scattered(call, tuple(np.moveaxis(call["indices"], -1, 0)), call["updates"], "add")


@operation("one_hot")
def one_hot(call: Call) -> Array:
    """`on_value` at the index, `off_value` elsewhere, along a new axis."""
    axis, size = int(call.get("axis", -1)), int(call["one_hot_vector_size"])
    hot = np.expand_dims(call["indices"], -1) == np.arange(size)
    return np.moveaxis(np.where(hot, call.get("on_value", 1), call.get("off_value", 0)), -1, axis)
