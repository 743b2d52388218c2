"""Reductions, softmax and normalisations."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arithmetic import Array
from ..registry import OPERATIONS, Call, operation


def _reduction(function: Any) -> Any:
    """Make an evaluator of `function(call, x, axes, keep_dims)`."""

    def evaluate(call: Call) -> Array:
        x = call["x"]
        return function(call, x, call.axes(x.ndim), bool(call.get("keep_dims", False)))

    return evaluate


def _sum(call: Call, x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    return call.arithmetic.sum(x, axes, keep, call.dtype)


def _mean(call: Call, x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    return _sum(call, x, axes, keep) / np.prod([x.shape[axis] for axis in axes])


def _log_sum_exp(call: Call, x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    top = x.max(axis=axes, keepdims=True)
    total = np.log(np.exp(x - top).sum(axis=axes, keepdims=True)) + top
    return total if keep else np.squeeze(total, axes)


OPERATIONS.update(
    reduce_sum=_reduction(_sum),
    reduce_mean=_reduction(_mean),
    reduce_max=_reduction(lambda call, x, axes, keep: x.max(axis=axes, keepdims=keep)),
    reduce_min=_reduction(lambda call, x, axes, keep: x.min(axis=axes, keepdims=keep)),
    reduce_prod=_reduction(lambda call, x, axes, keep: x.prod(axis=axes, keepdims=keep)),
    reduce_l1_norm=_reduction(lambda call, x, axes, keep: _sum(call, np.abs(x), axes, keep)),
    reduce_l2_norm=_reduction(lambda call, x, axes, keep: np.sqrt(_sum(call, np.square(x), axes, keep))),
    reduce_sum_square=_reduction(lambda call, x, axes, keep: _sum(call, np.square(x), axes, keep)),
    reduce_log_sum=_reduction(lambda call, x, axes, keep: np.log(_sum(call, x, axes, keep))),
    reduce_log_sum_exp=_reduction(_log_sum_exp),
)


def _arg(function: Any) -> Any:
    def evaluate(call: Call) -> Array:
        x, axis = call["x"], int(call["axis"])
        found = function(x, axis=axis)
        return np.expand_dims(found, axis) if call.get("keep_dims", False) else found

    return evaluate


OPERATIONS.update(reduce_argmax=_arg(np.argmax), reduce_argmin=_arg(np.argmin))


@operation("softmax")
def softmax(call: Call) -> Array:
    """Softmax over one axis, its sum kept wide as devices do."""
    x, axis = call["x"], int(call.get("axis", -1))
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


@operation("cumsum")
def cumsum(call: Call) -> Array:
    """Running sum over one axis; `exclusive` leaves the element itself out."""
    x, axis = call["x"], int(call.get("axis", 0))
    backwards = bool(call.get("reverse", False))
    x = np.flip(x, axis) if backwards else x
    total = np.cumsum(x, axis=axis)
    total = total - x if call.get("exclusive", False) else total
    return np.flip(total, axis) if backwards else total


@operation("layer_norm")
def layer_norm(call: Call) -> Array:
    """Normalise over `axes`, scale by gamma, shift by beta; the fused operation keeps its sums wide."""
    x = call["x"]
    axes = call.axes(x.ndim)
    shape = [x.shape[axis] if axis in axes else 1 for axis in range(x.ndim)]
    normal = _standardised(x, axes, _epsilon(call))
    gamma, beta = call.get("gamma"), call.get("beta")
    normal = normal if gamma is None else normal * np.reshape(gamma, shape)
    return normal if beta is None else normal + np.reshape(beta, shape)


@operation("instance_norm")
def instance_norm(call: Call) -> Array:
    """Normalise each channel of each example over its spatial axes."""
    x = call["x"]
    normal = _standardised(x, tuple(range(2, x.ndim)), _epsilon(call))
    return normal * _channels(call, "gamma", 1.0) + _channels(call, "beta", 0.0)


@operation("batch_norm")
def batch_norm(call: Call) -> Array:
    """Normalise each channel with stored mean and variance."""
    deviation = np.sqrt(_channels(call, "variance", 1.0) + _epsilon(call))
    normal = (call["x"] - _channels(call, "mean", 0.0)) / deviation
    return normal * _channels(call, "gamma", 1.0) + _channels(call, "beta", 0.0)


@operation("l2_norm")
def l2_norm(call: Call) -> Array:
    """x / √(Σx² + ε) over the last three axes."""
    x = call["x"]
    total = call.arithmetic.sum(np.square(x), (x.ndim - 3, x.ndim - 2, x.ndim - 1), True, call.dtype)
    return x / np.sqrt(total + call.get("epsilon", 1e-6))


def _epsilon(call: Call) -> float:
    """Return the epsilon of a fused normalisation as it was declared: it is no fp16 tensor that could be flushed."""
    variable = call.op.inputs.get("epsilon")
    return 1e-5 if variable is None or variable.val is None else float(variable.val)


def _standardised(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    centred = x - x.mean(axis=axes, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(axis=axes, keepdims=True) + epsilon)


def _channels(call: Call, name: str, default: float) -> Array:
    value = call.get(name)
    return np.asarray(default) if value is None else np.reshape(value, (-1, *(1,) * (call["x"].ndim - 2)))
