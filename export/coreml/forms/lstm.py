"""The LSTM unrolled over its steps: the Neural Engine runs neither recurrent operations nor loops.

Each layer's input product is one convolution over all steps. The first step has no hidden state and so no
recurrent product; gates are reordered so that the three sigmoids are one call.

B batch, T context length, D vector, H hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lvm_runtime.models.lstm import LSTM

from .layers import flat, pointwise, pointwise_of, to_channels, unit


class ChannelLSTMLayer(nn.Module):
    """One LSTM layer on `[B, C, 1, T]`; returns the hidden states as T tensors `[B, H, 1, 1]`."""

    def __init__(self, weights: list[Tensor], hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        w_ih, w_hh, b_ih, b_hh = (_sigmoids_first(w.detach()) for w in weights)
        self.from_input = pointwise(w_ih, b_ih + b_hh)
        self.from_state = pointwise(w_hh, None)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Run all steps; the state starts at zero."""
        states: list[Tensor] = []
        cell = x
        for step, gates in enumerate(self.from_input(x).split(1, dim=3)):  # [B, 4H, 1, 1] each
            if step:
                gates = gates + self.from_state(states[-1])
            sigmoids, candidate = gates.split([3 * self.hidden, self.hidden], dim=1)
            keep_in, forget, out = sigmoids.sigmoid().split(self.hidden, dim=1)
            update = keep_in * candidate.tanh()
            cell = forget * cell + update if step else update
            states.append(out * cell.tanh())
        return states


class ChannelLSTM(nn.Module):
    """Map contexts `[B, T, D]` to predictions `[B, D]`."""

    def __init__(self, model: LSTM) -> None:
        super().__init__()
        stack = model.lstm
        self.layers = nn.ModuleList(
            ChannelLSTMLayer(stack.layer_weights(layer), stack.hidden_dim) for layer in range(stack.num_layers)
        )
        self.output = pointwise_of(model.output_proj)

    def forward(self, contexts: Tensor) -> Tensor:
        """Return predictions `[B, D]`."""
        x = to_channels(contexts)  # [B, D, 1, T]
        states: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            states = layer(torch.cat(states, dim=3) if index else x)
        return flat(unit(self.output(states[-1])))


def _sigmoids_first(weight: Tensor) -> Tensor:
    """Reorder PyTorch's gates i, f, g, o to i, f, o, g."""
    i, f, g, o = weight.chunk(4)
    return torch.cat([i, f, o, g])
