"""Convolution and pooling over any number of spatial axes, by windows."""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..arithmetic import Array
from ..registry import Call, operation

Pairs = list[tuple[int, int]]


@operation("conv")
def conv(call: Call) -> Array:
    """Convolve x `[B, C, *S]` with a weight `[O, C/groups, *K]`."""
    x, weight = call["x"], call["weight"]
    spatial, groups = x.ndim - 2, int(call.get("groups", 1))
    if weight.shape[2:] == (1,) * spatial and groups == 1 and _is_plain(call, spatial):
        flat = x.reshape(*x.shape[:2], -1).swapaxes(1, 2)  # [B, S, C]
        product = call.arithmetic.matmul(flat, weight.reshape(weight.shape[0], -1).T, call.dtype)
        result = product.swapaxes(1, 2).reshape(x.shape[0], -1, *x.shape[2:])
    else:
        result = _windowed_conv(call, x, weight, groups)
    bias = call.get("bias")
    return result if bias is None else result + np.reshape(bias, (-1, *(1,) * spatial))


@operation("max_pool")
def max_pool(call: Call) -> Array:
    """Largest value of each window."""
    windows, spatial = _pool_windows(call, call["x"], -np.inf)
    return windows.max(axis=spatial)


@operation("avg_pool")
def avg_pool(call: Call) -> Array:
    """Mean of each window; padding counts as zeros unless it is excluded."""
    x = call["x"]
    windows, spatial = _pool_windows(call, x, 0.0)
    total = windows.sum(axis=spatial)
    if call.get("exclude_padding_from_average", False):
        return total / _pool_windows(call, np.ones_like(x), 0.0)[0].sum(axis=spatial)
    return total / math.prod(call.ints("kernel_sizes"))


def _is_plain(call: Call, spatial: int) -> bool:
    ones = all(n == 1 for name in ("strides", "dilations") for n in call.ints(name, [1] * spatial))
    padded = str(call.get("pad_type", "valid")) == "custom" and any(call.ints("pad", [0]))
    return ones and not padded


def _windowed_conv(call: Call, x: Array, weight: Array, groups: int) -> Array:
    spatial = x.ndim - 2
    strides, dilations = (call.ints(name, [1] * spatial) for name in ("strides", "dilations"))
    reach = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    x = np.pad(x, [(0, 0), (0, 0), *_padding(call, x.shape[2:], reach, strides)])
    windows = _windows(x, reach, strides)
    windows = windows[_steps(x.ndim, dilations)]  # [B, C, *out, *K]
    out = windows.shape[2 : 2 + spatial]
    rows = np.moveaxis(windows, 1, 1 + spatial)  # [B, *out, C, *K]
    rows = rows.reshape(x.shape[0], math.prod(out), groups, -1)
    kernels = weight.reshape(groups, weight.shape[0] // groups, -1)
    parts = [call.arithmetic.matmul(rows[:, :, g], kernels[g].T, call.dtype) for g in range(groups)]
    return np.concatenate(parts, axis=2).swapaxes(1, 2).reshape(x.shape[0], -1, *out)


def _pool_windows(call: Call, x: Array, padding: float) -> tuple[Array, tuple[int, ...]]:
    kernel = call.ints("kernel_sizes")
    strides = call.ints("strides", [1] * len(kernel))
    widths = _padding(call, x.shape[2:], kernel, strides)
    if call.get("ceil_mode", False):
        raise call.unsupported("ceil_mode")
    x = np.pad(x, [(0, 0), (0, 0), *widths], constant_values=padding)
    return _windows(x, kernel, strides), tuple(range(-len(kernel), 0))


def _windows(x: Array, sizes: list[int], strides: list[int]) -> Array:
    """Return `[B, C, *out, *sizes]`."""
    axes = tuple(range(2, x.ndim))
    windows = sliding_window_view(x, tuple(sizes), axis=axes)  # type: ignore[call-overload]
    return windows[_steps(2, strides)]


def _steps(leading: int, steps: list[int]) -> tuple[slice, ...]:
    """Index that takes every n-th element of the axes after the `leading` ones."""
    return (slice(None),) * leading + tuple(slice(None, None, step) for step in steps)


def _padding(call: Call, sizes: tuple[int, ...], reach: list[int], strides: list[int]) -> Pairs:
    kind = str(call.get("pad_type", "valid"))
    if kind == "valid":
        return [(0, 0)] * len(sizes)
    if kind == "custom":
        pad = call.ints("pad", [0] * (2 * len(sizes)))
        return [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]
    if kind not in ("same", "same_lower"):
        raise call.unsupported(f"pad_type {kind!r}")
    pairs: Pairs = []
    for size, window, stride in zip(sizes, reach, strides, strict=True):
        total = max((-(-size // stride) - 1) * stride + window - size, 0)
        small, large = total // 2, total - total // 2
        pairs.append((small, large) if kind == "same" else (large, small))
    return pairs
