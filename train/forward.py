"""The forward pass to train through, where a model's own is not the cheapest that computes the same.

B batch, T context length, D vector, H hidden, A attention width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lvm_runtime.models.amn import AMN
from lvm_runtime.models.gru import GRUStack
from lvm_runtime.models.lstm import LSTM
from lvm_runtime.models.transformer import Transformer

from .recurrent import GRUSequence, LSTMSequence


class FoldedAMN(nn.Module):
    """An AMN whose query goes through the key projection once, instead of each of the T vectors.

    q · (W x + b) = (Wᵀ q) · x + q · b. It shares `model`'s parameters and saves a quarter of a step's products.
    """

    def __init__(self, model: AMN) -> None:
        super().__init__()
        self.model = model

    def forward(self, contexts: Tensor) -> Tensor:
        """Return predictions `[B, D]` for contexts `[B, T, D]`."""
        model = self.model
        baseline = model.baseline(contexts)  # [B, D]
        query = model.query_encoder(baseline)  # [B, A]
        keys = model.context_encoder
        scores = contexts @ (query @ keys.weight).unsqueeze(2)  # [B, T, 1]
        scores = scores + (query @ keys.bias)[:, None, None]  # shifts all scores alike; here for the bias's gradient
        scores = scores / model.config.attention_dim**0.5
        if model.config.recency:
            scores = scores + model.attention_recency[:, None]
        attention = scores.softmax(dim=1)
        weighted = (attention.transpose(1, 2) @ contexts).squeeze(1)  # [B, D]
        residual = model.residual_net(torch.cat([baseline, weighted], dim=1))
        return F.normalize(baseline + residual, dim=1)


class SequenceLSTM(nn.Module):
    """An LSTM through `LSTMSequence`; it shares `model`'s parameters."""

    def __init__(self, model: LSTM) -> None:
        super().__init__()
        self.model = model

    def forward(self, contexts: Tensor) -> Tensor:
        """Return predictions `[B, D]` for contexts `[B, T, D]`."""
        stack = self.model.lstm
        x = contexts.transpose(0, 1)  # [T, B, D]
        for layer in range(stack.num_layers):
            if layer:
                x = stack.dropout(x)
            weight, recurrent, bias, recurrent_bias = stack.layer_weights(layer)
            x = LSTMSequence.apply(x, weight, recurrent, bias + recurrent_bias)  # [T, B, H]
        return F.normalize(self.model.output_proj(x[-1]), dim=1)


class SequenceGRU(nn.Module):
    """A GRU stack through `GRUSequence`; it shares `model`'s parameters."""

    def __init__(self, model: GRUStack) -> None:
        super().__init__()
        self.model = model

    def forward(self, contexts: Tensor) -> Tensor:
        """Return predictions `[B, D]` for contexts `[B, T, D]`."""
        x = self.model.input_proj(contexts.transpose(0, 1))  # [T, B, H]
        for module in self.model.blocks:
            block: Any = module
            states = GRUSequence.apply(x, *block.gru.all_weights[0])
            x = block.norm(x + block.dropout(states))
        return F.normalize(self.model.output_proj(x[-1]), dim=1)


class LastPositionTransformer(nn.Module):
    """A Transformer whose last layer computes the last position only: nothing reads the others' output.

    It shares `model`'s parameters and saves a seventh of a step's products.
    """

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, contexts: Tensor) -> Tensor:
        """Return predictions `[B, D]` for contexts `[B, T, D]`."""
        model, mask = self.model, self.model.causal_mask
        memory = x = model.pos_encoder(model.input_proj(contexts))  # [B, T, H]
        *layers, last = list(model.transformer_decoder.layers)
        for layer in layers:
            x = layer(x, memory, tgt_mask=mask, memory_mask=mask, tgt_is_causal=False, memory_is_causal=False)
        return F.normalize(model.head(_last_position(last, x, memory)[:, 0]), dim=1)


def _last_position(layer: Any, x: Tensor, memory: Tensor) -> Tensor:
    """Return the last position `[B, 1, H]` of a post-norm `nn.TransformerDecoderLayer`; it sees all others."""
    found = x[:, -1:]
    found = layer.norm1(found + layer.dropout1(layer.self_attn(found, x, x, need_weights=False)[0]))
    found = layer.norm2(found + layer.dropout2(layer.multihead_attn(found, memory, memory, need_weights=False)[0]))
    inner = layer.linear2(layer.dropout(layer.activation(layer.linear1(found))))
    return layer.norm3(found + layer.dropout3(inner))  # type: ignore[no-any-return]


def training_form(model: nn.Module, *, host: bool) -> nn.Module:
    """Return the module to train through, whose parameters are those of `model`.

    `host`: it runs eagerly in float32 on the CPU, where the recurrent layers' own backward pass is worth replacing.
    """
    if isinstance(model, AMN):
        return FoldedAMN(model)
    if isinstance(model, Transformer):
        return LastPositionTransformer(model)
    if host and isinstance(model, LSTM):
        return SequenceLSTM(model)
    if host and isinstance(model, GRUStack):
        return SequenceGRU(model)
    return model
