"""The Transformer decoder as 1×1 convolutions, head-wise matrix products and constant masks.

Exact rewrites: 1/√d sits in the query weights; key biases are gone, being constant over the keys; value biases
went through the output projection, since attention weights sum to one; the memory is the same for all layers, so
their cross-attention keys and values are one convolution; the last layer is evaluated at the last position only,
which sees every key and needs no mask.

B batch, T context length, D vector, H hidden, N heads, W head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lvm_runtime.models.transformer import Transformer

from .layers import ChannelNorm, flat, pointwise, pointwise_of, to_channels, unit

BARRED = -3e4
"""Added to the score of a barred position: its exponential is zero in every precision; infinity can become NaN.

Scores of vectors of a norm over 500 can be larger; the backends of such forms take 200 at most, in fp32 too.
"""


class Projections:
    """The weights of one attention with everything foldable folded."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        weight, bias = attention.in_proj_weight.detach(), attention.in_proj_bias.detach()
        q, k, v = weight.chunk(3)
        scale = attention.head_dim**-0.5
        output = attention.out_proj
        self.heads = Heads(attention.num_heads, attention.head_dim)
        self.query = q * scale, bias.chunk(3)[0] * scale
        self.key, self.value = k, v
        self.output = pointwise(output.weight, output.bias + output.weight @ bias.chunk(3)[2])


@dataclass(frozen=True, slots=True)
class Heads:
    """Cuts channels into heads and joins them again, by constant sizes: a traced size would become a `shape` op."""

    count: int
    width: int

    def split(self, x: Tensor, parts: int, steps: int) -> tuple[Tensor, ...]:
        """Cut `[B, parts·N·W, 1, S]` into `parts` tensors `[B, N, W, S]`."""
        return x.reshape(-1, parts * self.count, self.width, steps).split(self.count, dim=1)

    def join(self, x: Tensor, steps: int) -> Tensor:
        """Turn `[B, N, W, S]` back into `[B, N·W, 1, S]`."""
        return x.reshape(-1, self.count * self.width, 1, steps)


class ChannelDecoderLayer(nn.Module):
    """One post-norm decoder layer on `[B, H, 1, T]`; the last one returns `[B, H, 1, 1]`."""

    mask: Tensor  # [1, 1, T, T]

    def __init__(self, layer: Any, mask: Tensor, *, last: bool) -> None:
        super().__init__()
        own, cross = Projections(layer.self_attn), Projections(layer.multihead_attn)
        self.heads = own.heads
        self.last = last
        self.steps = mask.shape[3]
        self.queries = 1 if last else self.steps
        no_bias = torch.zeros_like(own.query[1])
        if last:
            self.own_query = pointwise(*own.query)
            self.own_keys = pointwise(torch.cat([own.key, own.value]), None)
        else:
            weight = torch.cat([own.query[0], own.key, own.value])
            self.own_all = pointwise(weight, torch.cat([own.query[1], no_bias, no_bias]))
        self.own_output, self.cross_output = own.output, cross.output
        self.cross_query = pointwise(*cross.query)
        self.norms = nn.ModuleList(ChannelNorm(norm) for norm in (layer.norm1, layer.norm2, layer.norm3))
        self.widen, self.narrow = pointwise_of(layer.linear1), pointwise_of(layer.linear2)
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Decode `x` `[B, H, 1, T]` with the memory's `key` and `value` `[B, N, W, T]`."""
        if self.last:
            own_key, own_value = self.heads.split(self.own_keys(x), 2, self.steps)
            x = x.split(1, dim=3)[-1]
            query = self.heads.split(self.own_query(x), 1, 1)[0]
        else:
            query, own_key, own_value = self.heads.split(self.own_all(x), 3, self.steps)
        x = self.norms[0](x + self.own_output(self._attend(query, own_key, own_value)))
        query = self.heads.split(self.cross_query(x), 1, self.queries)[0]
        x = self.norms[1](x + self.cross_output(self._attend(query, key, value)))
        return self.norms[2](x + self.narrow(F.relu(self.widen(x))))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return `[B, H, 1, S]` for S queries."""
        scores = query.transpose(2, 3) @ key  # [B, N, S, T]
        if not self.last:
            scores = scores + self.mask
        mixed = value @ scores.softmax(dim=3).transpose(2, 3)  # [B, N, W, S]
        return self.heads.join(mixed, self.queries)


class ChannelTransformer(nn.Module):
    """Map contexts `[B, T, D]` to predictions `[B, D]`."""

    positions: Tensor  # [1, H, 1, T]

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        config = model.config
        steps, layers = config.context_length, list(model.transformer_decoder.layers)
        self.steps = steps
        self.heads = Heads(config.num_heads, config.hidden_dim // config.num_heads)
        self.input = pointwise_of(model.input_proj)
        self.register_buffer("positions", to_channels(model.pos_encoder.pe[:, :steps]).clone())
        cross = [Projections(layer.multihead_attn) for layer in layers]  # type: ignore[arg-type]
        self.memory = pointwise(torch.cat([torch.cat([c.key, c.value]) for c in cross]), None)
        mask = torch.zeros(1, 1, steps, steps, dtype=self.positions.dtype)
        mask = mask.masked_fill(model.causal_mask, BARRED)
        self.layers = nn.ModuleList(
            ChannelDecoderLayer(layer, mask, last=i == len(layers) - 1) for i, layer in enumerate(layers)
        )
        self.head = nn.Sequential(
            pointwise_of(model.head[0]),  # type: ignore[arg-type]
            nn.GELU(),
            ChannelNorm(model.head[2]),  # type: ignore[arg-type]
            pointwise_of(model.head[3]),  # type: ignore[arg-type]
        )

    def forward(self, contexts: Tensor) -> Tensor:
        """Return predictions `[B, D]`."""
        x = self.input(to_channels(contexts)) + self.positions  # [B, H, 1, T]
        memory = self.heads.split(self.memory(x), 2 * len(self.layers), self.steps)
        for index, layer in enumerate(self.layers):
            x = layer(x, memory[2 * index], memory[2 * index + 1])
        return flat(unit(self.head(x)))
