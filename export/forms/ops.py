"""The operations in which deployment forms are written, and their meaning in PyTorch.

A form is a small program over `Ops`. Whoever implements these operations runs or translates every form: here
they compute with tensors (float64 for the equality tests, float32 for TorchScript) or count multiply-adds;
`export.onnx` writes them as ONNX nodes, in fp32 and in int8. One program, so nothing can differ.

All values are matrices `[rows, width]`, except around `attention` and `mixture`. Weights are `[in, out]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

Value = Any
"""What an implementation computes with: a tensor, or a node's output in a graph."""


class Norm(NamedTuple):
    """A LayerNorm: scale and shift `[width]`, and what is added to the variance."""

    weight: Tensor
    bias: Tensor
    eps: float


class Ops(Protocol):
    """What a deployment form may use. `rows` means any number of rows; negative positions count from the end."""

    def linear(self, x: Value, weight: Tensor, bias: Value | Tensor | None = None) -> Value:
        """Return `x @ weight + bias`: `[rows, in]` to `[rows, out]`; `bias` is `[out]`, or a value `[rows, out]`."""

    def feed_forward(self, x: Value, wide: Tensor, bias: Tensor, narrow: Tensor) -> Value:
        """Return `relu(x @ wide + bias) @ narrow`."""

    def norm_linear(self, x: Value, norm: Norm, weight: Tensor, bias: Tensor) -> Value:
        """Return `layer_norm(x, norm) @ weight + bias`, for a norm that nothing else reads."""

    def reshape(self, x: Value, *shape: int) -> Value:
        """Return `x` in another shape without moving values; −1 stands for the rows."""

    def split(self, x: Value, sizes: Sequence[int]) -> list[Value]:
        """Cut the last axis into parts of `sizes`."""

    def concat(self, parts: Sequence[Value]) -> Value:
        """Join along the last axis."""

    def rows(self, x: Value, start: int, stop: int | None) -> Value:
        """Return the rows from `start` up to `stop` (negative: from the end; None: the end)."""

    def add(self, a: Value, b: Value | Tensor) -> Value:
        """Return `a + b`; `b` may be a constant."""

    def sub(self, a: Value, b: Value) -> Value:
        """Return `a − b`."""

    def mul(self, a: Value, b: Value | Tensor) -> Value:
        """Return `a * b`, element by element; `b` may be a constant."""

    def sigmoid(self, x: Value) -> Value:
        """Return the logistic function of each element."""

    def tanh(self, x: Value) -> Value:
        """Return the hyperbolic tangent of each element."""

    def gelu(self, x: Value) -> Value:
        """Return the exact (erf) GELU of each element."""

    def layer_norm(self, x: Value, norm: Norm) -> Value:
        """Normalise the last axis to mean 0 and variance 1, then scale and shift."""

    def normalise(self, x: Value) -> Value:
        """Scale each row to L2 norm 1."""

    def mean(self, x: Value, weights: Tensor | None = None) -> Value:
        """Average over the middle axis, evenly or with constant `weights` `[T]`: `[B, T, D]` to `[B, D]`."""

    def mixture(self, query: Value, contexts: Value, bias: Tensor | None = None) -> tuple[Value, Value]:
        """Return the mixture `[B, D]` of `contexts` `[B, T, D]` under softmax(contexts · `query` `[B, D]` + `bias`
        `[T]`), and the weights `[B, T]`."""

    def attention(self, query: Value, key: Value, value: Value, heads: int, barred: Tensor | None) -> Value:
        """Multi-head attention of `query` `[B, S, H]` over `key` and `value` `[B, T, H]`, without further scaling.

        `barred` `[S, T]` is None, or the causal mask: True where attention is barred.
        """


class TorchOps:
    """The operations on tensors of any float type."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return x @ weight if bias is None else torch.addmm(bias, x, weight)

    def feed_forward(self, x: Tensor, wide: Tensor, bias: Tensor, narrow: Tensor) -> Tensor:
        return self.linear(self.linear(x, wide, bias).relu(), narrow)

    def norm_linear(self, x: Tensor, norm: Norm, weight: Tensor, bias: Tensor) -> Tensor:
        return self.linear(self.layer_norm(x, norm), weight, bias)

    def reshape(self, x: Tensor, *shape: int) -> Tensor:
        return x.reshape(shape)

    def split(self, x: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        return list(x.split(list(sizes), dim=-1))

    def concat(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts), dim=-1)

    def rows(self, x: Tensor, start: int, stop: int | None) -> Tensor:
        return x[start:stop]

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b

    def sub(self, a: Tensor, b: Tensor) -> Tensor:
        return a - b

    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b

    def sigmoid(self, x: Tensor) -> Tensor:
        return x.sigmoid()

    def tanh(self, x: Tensor) -> Tensor:
        return x.tanh()

    def gelu(self, x: Tensor) -> Tensor:
        return F.gelu(x)

    def layer_norm(self, x: Tensor, norm: Norm) -> Tensor:
        return F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.eps)

    def normalise(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)

    def mean(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        return x.mean(dim=1) if weights is None else weights @ x

    def mixture(self, query: Tensor, contexts: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        scores = (contexts @ query.unsqueeze(2)).squeeze(2)  # [B, T]
        weights = (scores if bias is None else scores + bias).softmax(dim=1)
        return (weights.unsqueeze(1) @ contexts).squeeze(1), weights

    def attention(self, query: Tensor, key: Tensor, value: Tensor, heads: int, barred: Tensor | None) -> Tensor:
        q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (query, key, value))  # [B, heads, S|T, d]
        scores = q @ k.transpose(2, 3)
        if barred is not None:
            scores = scores.masked_fill(barred, float("-inf"))
        return (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)


class CountingOps(TorchOps):
    """TorchOps that count the multiply-adds of every product."""

    def __init__(self) -> None:
        self.multiply_adds = 0

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        self.multiply_adds += x.shape[0] * weight.numel()
        return super().linear(x, weight, bias)

    def mean(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        self.multiply_adds += 0 if weights is None else x.numel()
        return super().mean(x, weights)

    def mixture(self, query: Tensor, contexts: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.multiply_adds += 2 * contexts.numel()
        return super().mixture(query, contexts, bias)

    def attention(self, query: Tensor, key: Tensor, value: Tensor, heads: int, barred: Tensor | None) -> Tensor:
        self.multiply_adds += query.shape[1] * (key.numel() + value.numel())
        return super().attention(query, key, value, heads, barred)
