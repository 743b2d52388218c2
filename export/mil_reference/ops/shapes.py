"""Operations that move elements without changing them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arithmetic import Array
from ..registry import Call, operation


@operation("reshape")
def reshape(call: Call) -> Array:
    """Reshape; −1 is inferred and 0 keeps the input's size at that place."""
    x, shape = call["x"], call.ints("shape")
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape)])


@operation("transpose")
def transpose(call: Call) -> Array:
    """Permute axes."""
    return np.transpose(call["x"], call.ints("perm"))


@operation("expand_dims")
def expand_dims(call: Call) -> Array:
    """Insert axes of size 1."""
    return np.expand_dims(call["x"], tuple(call.ints("axes")))


@operation("squeeze")
def squeeze(call: Call) -> Array:
    """Drop axes of size 1."""
    x = call["x"]
    if call.get("axes") is None:
        return np.squeeze(x)
    return np.squeeze(x, call.axes(x.ndim))


@operation("flatten2d")
def flatten2d(call: Call) -> Array:
    """Join the axes before `axis`, and those from it on."""
    x, axis = call["x"], int(call.get("axis", 1))
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


@operation("concat")
def concat(call: Call) -> Array:
    """Join along an axis; interleaved, it takes one element of each in turn."""
    parts, axis = [np.atleast_1d(v) for v in call["values"]], int(call["axis"])
    if not call.get("interleave", False):
        return np.concatenate(parts, axis=axis)
    axis %= parts[0].ndim
    stacked = np.stack(parts, axis=axis + 1)
    return stacked.reshape(*stacked.shape[:axis], -1, *stacked.shape[axis + 2 :])


@operation("stack")
def stack(call: Call) -> Array:
    """Join along a new axis."""
    return np.stack(call["values"], axis=int(call["axis"]))


@operation("split")
def split(call: Call) -> tuple[Array, ...]:
    """Cut along an axis into `num_splits` equal parts, or into parts of `split_sizes`."""
    x, axis = call["x"], int(call["axis"])
    if call.get("split_sizes") is None:
        return tuple(np.split(x, int(call["num_splits"]), axis=axis))
    return tuple(np.split(x, np.cumsum(call.ints("split_sizes"))[:-1], axis=axis))


@operation("tile")
def tile(call: Call) -> Array:
    """Repeat whole axes."""
    return np.tile(call["x"], call.ints("reps"))


@operation("reverse")
def reverse(call: Call) -> Array:
    """Reverse the order along axes."""
    return np.flip(call["x"], call.axes(call["x"].ndim))


@operation("shape")
def shape(call: Call) -> Array:
    """The shape as a vector of integers."""
    return np.asarray(np.shape(call["x"]))


@operation("fill")
def fill(call: Call) -> Array:
    """A tensor of one value."""
    return np.full(call.ints("shape"), call.get("value", 0.0))


@operation("fill_like")
def fill_like(call: Call) -> Array:
    """A tensor of one value with the shape of another."""
    return np.full(np.shape(call["ref_tensor"]), call.get("value", 0.0))


@operation("range_1d")
def range_1d(call: Call) -> Array:
    """start, start+step, … below end."""
    return np.arange(call["start"], call["end"], call["step"])


@operation("band_part")
def band_part(call: Call) -> Array:
    """Keep `lower` diagonals below and `upper` above the main one of the last two axes; −1 keeps all."""
    x, lower, upper = call["x"], int(call.get("lower", -1)), int(call.get("upper", -1))
    distance = np.arange(x.shape[-1])[None, :] - np.arange(x.shape[-2])[:, None]
    kept = ((lower < 0) | (-distance <= lower)) & ((upper < 0) | (distance <= upper))
    return np.where(kept, x, 0)


@operation("pad")
def pad(call: Call) -> Array:
    """Pad the last axes, by a constant, by reflection or by repetition of the edge."""
    x, amounts = call["x"], call.ints("pad")
    pairs = [(amounts[i], amounts[i + 1]) for i in range(0, len(amounts), 2)]
    widths = [(0, 0)] * (x.ndim - len(pairs)) + pairs
    mode = str(call.get("mode", "constant"))
    if mode == "constant":
        return np.pad(x, widths, constant_values=call.get("constant_val", 0.0))
    kinds: dict[str, Any] = {"reflect": "reflect", "replicate": "edge"}
    if mode not in kinds:
        raise call.unsupported(f"mode {mode!r}")
    return np.pad(x, widths, mode=kinds[mode])
