"""Transformer decoder over vectors, post-norm, with a cross-attention to its own projected input.

The cross-attention reads the projected and positioned input under the same causal mask as the
self-attention; it is what takes the model from 13.7 to 17.9 million parameters. Layers are called with
explicit masks and `is_causal=False`: the mask check inside `nn.TransformerDecoder` depends on data, which
`torch.export` cannot follow, and `is_causal=True` leaks the future in fp16 on MPS (pytorch issue 195910).

B batch, T context length, D vector, H hidden, P positions in the table.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lvm_runtime.artifact.config import TransformerConfig


class SinusoidalPositions(nn.Module):
    """Add the sinusoidal position table of "Attention Is All You Need" (section 3.5) to `[B, T, H]`."""

    pe: Tensor  # [1, P, H]

    def __init__(self, hidden_dim: int, max_positions: int) -> None:
        super().__init__()
        position = torch.arange(max_positions, dtype=torch.float32).unsqueeze(1)  # [P, 1]
        rates = torch.exp(torch.arange(0, hidden_dim, 2, dtype=torch.float32) * (-math.log(10000.0) / hidden_dim))
        table = torch.zeros(1, max_positions, hidden_dim, dtype=torch.float32)
        table[0, :, 0::2] = torch.sin(position * rates)
        table[0, :, 1::2] = torch.cos(position * rates)
        self.register_buffer("pe", table)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` plus the first T positions."""
        return x + self.pe[:, : x.shape[1]]


class DecoderStack(nn.Module):
    """The layers of an `nn.TransformerDecoder` under its key names, each freshly initialised.

    `nn.TransformerDecoder` copies one layer, so its layers start out equal and a mix-up of their order
    stays invisible until they are trained.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                config.hidden_dim, config.num_heads, config.ffn_dim, config.dropout, batch_first=True
            )
            for _ in range(config.num_layers)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Decode `x` `[B, T, H]` with itself as the memory; `mask` `[T, T]` is True where attention is barred."""
        memory = x
        for layer in self.layers:
            x = layer(x, memory, tgt_mask=mask, memory_mask=mask, tgt_is_causal=False, memory_is_causal=False)
        return x


class Transformer(nn.Module):
    """Map contexts `[B, T, D]` to unit predictions `[B, D]` from the last position."""

    causal_mask: Tensor  # [T, T]

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden_dim
        self.input_proj = nn.Linear(config.dim, hidden)
        self.pos_encoder = SinusoidalPositions(hidden, config.max_positions)
        self.transformer_decoder = DecoderStack(config)
        self.head = nn.Sequential(
            nn.Linear(hidden, hidden), nn.GELU(), nn.LayerNorm(hidden), nn.Linear(hidden, config.dim)
        )
        barred = torch.ones(config.context_length, config.context_length, dtype=torch.bool).triu(1)
        self.register_buffer("causal_mask", barred, persistent=False)

    def forward(self, contexts: Tensor) -> Tensor:
        """Return predictions `[B, D]` for contexts `[B, T, D]`."""
        x = self.pos_encoder(self.input_proj(contexts))  # [B, T, H]
        x = self.transformer_decoder(x, self.causal_mask)
        return F.normalize(self.head(x[:, -1]), dim=1)
