"""Matrix products and attention."""

from __future__ import annotations

import numpy as np

from ..arithmetic import Array
from ..registry import Call, operation


@operation("matmul")
def matmul(call: Call) -> Array:
    """Batched matrix product with optional transposes of the last two axes."""
    x, y = call["x"], call["y"]
    x = np.swapaxes(x, -1, -2) if call.get("transpose_x", False) else x
    y = np.swapaxes(y, -1, -2) if call.get("transpose_y", False) else y
    if min(x.ndim, y.ndim) < 2:
        return x @ y
    return call.arithmetic.matmul(x, y, call.dtype)


@operation("linear")
def linear(call: Call) -> Array:
    """x·Wᵀ + b with a weight `[out, in]`."""
    bias = call.get("bias")
    product = call.arithmetic.matmul(call["x"], call["weight"].T, call.dtype)
    return product if bias is None else product + bias


@operation("einsum")
def einsum(call: Call) -> Array:
    """Einstein sum of two tensors."""
    return np.einsum(str(call["equation"]), *call["values"])


@operation("scaled_dot_product_attention")
def scaled_dot_product_attention(call: Call) -> Array:
    """softmax(q·kᵀ/√d + mask)·v; a boolean mask is True where attention is allowed."""
    query, key, value, mask = call["query"], call["key"], call["value"], call.get("attn_mask")
    scores = call.arithmetic.matmul(query, np.swapaxes(key, -1, -2), call.dtype) / np.sqrt(query.shape[-1])
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights = call.arithmetic.rounded(powers / powers.sum(axis=-1, keepdims=True), call.dtype)
    return call.arithmetic.matmul(weights, value, call.dtype)
