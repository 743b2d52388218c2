"""Stacked LSTM: the recurrent baseline.

`nn.LSTM(num_layers=2, dropout=p)` is silently wrong on MPS: its inter-layer dropout is applied in a way
that survives into evaluation and is ignored by the gradients (pytorch issues 173640, 180744, 190056).
So each layer runs as a one-layer LSTM with an explicit dropout between layers, while the parameters keep
the names that `nn.LSTM` gives them and reference checkpoints load with `strict=True`.

B batch, T context length, D vector, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lvm_runtime.artifact.config import LSTMConfig


class StackedLSTM(nn.Module):
    """Batch-first LSTM layers under `nn.LSTM`'s parameter names: `[B, T, D]` to `[B, T, H]`."""

    def __init__(self, dim: int, hidden_dim: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.num_layers = num_layers
        self.dropout = nn.Dropout(dropout)
        for layer in range(num_layers):
            width = dim if layer == 0 else hidden_dim
            self.register_parameter(f"weight_ih_l{layer}", nn.Parameter(torch.empty(4 * hidden_dim, width)))
            self.register_parameter(f"weight_hh_l{layer}", nn.Parameter(torch.empty(4 * hidden_dim, hidden_dim)))
            self.register_parameter(f"bias_ih_l{layer}", nn.Parameter(torch.empty(4 * hidden_dim)))
            self.register_parameter(f"bias_hh_l{layer}", nn.Parameter(torch.empty(4 * hidden_dim)))
        bound = hidden_dim**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def layer_weights(self, layer: int) -> list[Tensor]:
        """Return `[W_ih, W_hh, b_ih, b_hh]` of one layer; gates are stacked in the order i, f, g, o."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return [getattr(self, f"{name}_l{layer}") for name in names]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> StackedLSTM:
        """Move or convert the parameters, and lay each layer's out in one piece for cuDNN, as `nn.LSTM` does.

        From anywhere else cuDNN copies them together in every call, and torch warns of it.
        """
        super()._apply(fn, recurse)
        for layer in range(self.num_layers):
            weights = self.layer_weights(layer)
            one = nn.LSTM(weights[0].shape[1], self.hidden_dim, batch_first=True, device="meta")
            for name, weight in zip(list(one._parameters), weights, strict=True):
                setattr(one, name, weight)
            one.flatten_parameters()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return the last layer's hidden states `[B, T, H]`."""
        for layer in range(self.num_layers):
            if layer:
                x = self.dropout(x)
            zeros = x.new_zeros(1, x.shape[0], self.hidden_dim)
            # one layer, no dropout of its own, batch first
            x = torch.lstm(x, (zeros, zeros), self.layer_weights(layer), True, 1, 0.0, self.training, False, True)[0]
        return x


class LSTM(nn.Module):
    """Map contexts `[B, T, D]` to unit predictions `[B, D]` from the last hidden state."""

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__()
        self.config = config
        self.lstm = StackedLSTM(config.dim, config.hidden_dim, config.num_layers, config.dropout)
        self.output_proj = nn.Linear(config.hidden_dim, config.dim)

    def forward(self, contexts: Tensor) -> Tensor:
        """Return predictions `[B, D]` for contexts `[B, T, D]`."""
        hidden = self.lstm(contexts)  # [B, T, H]
        return F.normalize(self.output_proj(hidden[:, -1]), dim=1)
