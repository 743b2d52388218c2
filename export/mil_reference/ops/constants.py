"""Constants, and the constant expressions that unpack compressed weights.

The packed layouts are those that coremltools documents for `constexpr_*`; sub-byte indices are unpacked by
coremltools' loader where the program declares them (iOS 18), and here where they come as raw bytes (iOS 16).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..arithmetic import Array
from ..registry import Call, operation


@operation("const")
def const(call: Call) -> Any:
    """The stored value."""
    return call.op.outputs[0].val


@operation("constexpr_cast")
def constexpr_cast(call: Call) -> Array:
    """A stored fp16 tensor used as fp32."""
    return call["source_val"]


@operation("constexpr_affine_dequantize")
def constexpr_affine_dequantize(call: Call) -> Array:
    """scale·(quantised − zero point), with one scale per tensor or per index of `axis`."""
    data = call["quantized_data"].astype(np.float64)
    shape = [1] * data.ndim
    shape[int(call["axis"])] = -1
    scale, zero = (np.asarray(call[name], dtype=np.float64) for name in ("scale", "zero_point"))
    return np.reshape(scale, shape if scale.ndim else ()) * (data - np.reshape(zero, shape if zero.ndim else ()))


@operation("constexpr_blockwise_shift_scale")
def constexpr_blockwise_shift_scale(call: Call) -> Array:
    """scale·(data − offset), with one scale per block."""
    data, offset = call["data"].astype(np.float64), call.get("offset")
    shifted = data if offset is None else data - _spread(offset.astype(np.float64), data.shape)
    return _spread(call["scale"], data.shape) * shifted


@operation("constexpr_lut_to_dense")
def constexpr_lut_to_dense(call: Call) -> Array:
    """A palette looked up by index: packed bytes with a `shape` (iOS 16), or one palette per group (iOS 18)."""
    lut, indices = call["lut"], call["indices"]
    if call.get("shape") is not None:
        shape = call.ints("shape")
        return lut[_unpack(indices, int(math.log2(lut.size)), math.prod(shape))].reshape(shape)
    groups = lut.shape[:-2]
    places = [np.arange(size) * count // size for size, count in zip(indices.shape, groups, strict=True)]
    where: tuple[Any, ...] = (*np.ix_(*places), indices.astype(np.int64))
    found = lut[where]  # [..., vector]
    if found.shape[-1] == 1:
        return found[..., 0]
    axis = int(call["vector_axis"]) % indices.ndim
    shape = list(indices.shape)
    shape[axis] *= found.shape[-1]
    return np.moveaxis(found, -1, axis + 1).reshape(shape)


@operation("constexpr_sparse_to_dense")
def constexpr_sparse_to_dense(call: Call) -> Array:
    """Non-zero values put where the mask says: packed bits with a `shape` (iOS 16), or one element each (iOS 18)."""
    mask, values = call["mask"], call["nonzero_data"]
    if call.get("shape") is not None:
        shape = call.ints("shape")
        mask = _unpack(mask, 1, math.prod(shape)).reshape(shape)
    dense = np.zeros(mask.shape)
    dense[mask != 0] = values
    return dense


def _spread(values: Array, shape: tuple[int, ...]) -> Array:
    """Repeat one value per block until it fills `shape`."""
    for axis, size in enumerate(shape):
        values = np.repeat(values, size // values.shape[axis], axis=axis)
    return values


def _unpack(packed: Array, bits: int, count: int) -> Array:
    """Return `count` integers of `bits` bits each, stored from the least significant bit up."""
    stream = np.unpackbits(packed.astype(np.uint8), bitorder="little")[: count * bits]
    return stream.reshape(count, bits).astype(np.int64) @ (1 << np.arange(bits))
