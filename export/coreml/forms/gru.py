"""The GRU stack unrolled over its steps, for the same reasons and in the same way as the LSTM.

Input and hidden biases are merged, except the new gate's hidden bias: the reset gate multiplies that one.

B batch, T context length, D vector, H hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lvm_runtime.models.gru import GRUBlock, GRUStack

from .layers import ChannelNorm, flat, pointwise, pointwise_of, to_channels, unit


class ChannelGRUBlock(nn.Module):
    """LayerNorm(x + GRU(x)) on `[B, H, 1, T]`; the last block of a stack returns its last step only."""

    new_bias: Tensor  # [1, H, 1, 1]

    def __init__(self, block: GRUBlock, *, last: bool) -> None:
        super().__init__()
        gru: Any = block.gru
        self.hidden = gru.hidden_size
        self.last = last
        b_ih, b_hh = gru.bias_ih_l0.detach(), gru.bias_hh_l0.detach()
        gates, new = b_hh.split([2 * self.hidden, self.hidden])
        self.from_input = pointwise(gru.weight_ih_l0.detach(), b_ih + torch.cat([gates, torch.zeros_like(new)]))
        self.from_state = pointwise(gru.weight_hh_l0.detach(), torch.cat([torch.zeros_like(gates), new]))
        self.register_buffer("new_bias", new[None, :, None, None].clone())
        self.norm = ChannelNorm(block.norm)

    def forward(self, x: Tensor) -> Tensor:
        """Run all steps; the state starts at zero."""
        states = self._states(x)
        if self.last:
            return self.norm(x.split(1, dim=3)[-1] + states[-1])
        return self.norm(x + torch.cat(states, dim=3))

    def _states(self, x: Tensor) -> list[Tensor]:
        widths = [2 * self.hidden, self.hidden]
        states: list[Tensor] = []
        for step, from_input in enumerate(self.from_input(x).split(1, dim=3)):  # [B, 3H, 1, 1] each
            gates, candidate = from_input.split(widths, dim=1)
            recurrent = self.new_bias
            if step:
                from_gates, recurrent = self.from_state(states[-1]).split(widths, dim=1)
                gates = gates + from_gates
            reset, update = gates.sigmoid().split(self.hidden, dim=1)
            new = (candidate + reset * recurrent).tanh()
            # (1 − z)·n + z·h = n + z·(h − n)
            states.append(new + update * (states[-1] - new) if step else new - update * new)
        return states


class ChannelGRU(nn.Module):
    """Map contexts `[B, T, D]` to predictions `[B, D]`."""

    def __init__(self, model: GRUStack) -> None:
        super().__init__()
        count = len(model.blocks)
        self.input = pointwise_of(model.input_proj)
        self.blocks = nn.Sequential(
            *(ChannelGRUBlock(block, last=i == count - 1) for i, block in enumerate(model.blocks))  # type: ignore[arg-type]
        )
        self.output = pointwise_of(model.output_proj)

    def forward(self, contexts: Tensor) -> Tensor:
        """Return predictions `[B, D]`."""
        x = self.blocks(self.input(to_channels(contexts)))  # [B, H, 1, 1]
        return flat(unit(self.output(x)))
