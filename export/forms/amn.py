"""Deployment form of the AMN.

Keys are never formed: query·keyᵢ = (W_kᵀ q)·xᵢ + q·b_k, and what is the same for every position drops out of
the softmax. The first layer's two halves stay two products, so nothing is concatenated and the mean, which
also makes the query, is quantised once.

B batch, T context length, D vector, A attention width, H hidden.
"""

from __future__ import annotations

from typing import Any

from lvm_runtime.models.amn import AMN

from .base import Form, Window
from .ops import Ops, Value


class AMNForm(Form):
    """1.51 M instead of 2.29 M multiply-adds at D=768, T=5."""

    outputs = ("prediction", "attention")

    def __init__(self, model: AMN) -> None:
        super().__init__(model.config)
        net: Any = model.residual_net
        dim = model.config.dim
        first = net[0].weight.T  # [2D, H]: the mean's half, then the mixture's
        scale = model.config.attention_dim**-0.5
        self.recent = model.config.recency
        if self.recent:
            self.keep("mean_recency", model.mean_recency.softmax(dim=0))
            self.keep("attention_recency", model.attention_recency)
        self.keep("query_weight", model.query_encoder.weight.T)
        self.keep("query_bias", model.query_encoder.bias)
        self.keep("mean_weight", first[:dim])
        self.keep("mean_bias", net[0].bias)
        self.keep("key_weight", model.context_encoder.weight * scale)  # [A, D]
        self.keep("mixture_weight", first[dim:])
        self.keep_norm("norm1", net[2])
        self.keep_norm("norm2", net[5])
        for name, layer in (("middle", net[3]), ("last", net[6])):
            self.keep(f"{name}_weight", layer.weight.T)
            self.keep(f"{name}_bias", layer.bias)

    def widths(self) -> tuple[int, ...]:
        """The vectors themselves."""
        return (self.config.dim,)

    def project(self, ops: Ops, vectors: Value) -> list[Value]:
        """Nothing depends on one vector alone."""
        return [vectors]

    def combine(self, ops: Ops, windows: list[Window]) -> tuple[Value, ...]:
        """Return prediction `[B, D]` and attention `[B, T]`."""
        contexts = ops.reshape(windows[0].flat(), -1, self.length, self.config.dim)
        mean = ops.mean(contexts, self.mean_recency if self.recent else None)  # [B, D]
        query = ops.linear(mean, self.query_weight, self.query_bias)  # [B, A]
        direction = ops.linear(query, self.key_weight)
        mixture, attention = ops.mixture(direction, contexts, self.attention_recency if self.recent else None)
        hidden = ops.linear(mean, self.mean_weight, self.mean_bias)  # [B, H]
        hidden = ops.gelu(ops.linear(mixture, self.mixture_weight, hidden))
        hidden = ops.gelu(ops.norm_linear(hidden, self.norm("norm1"), self.middle_weight, self.middle_bias))
        residual = ops.norm_linear(hidden, self.norm("norm2"), self.last_weight, self.last_bias)
        return ops.normalise(ops.add(mean, residual)), attention
