"""LSTM and GRU layers whose backward pass multiplies once per layer where autograd multiplies once per time step.

Autograd makes a gradient of the recurrent weights at every step, and adds them up: T products over B rows and T
passes over [4H, H]. Here the gates' gradients of all steps are kept and multiplied once, over T · B rows. On
the CPU in float32 that is a fifth of an LSTM's training step; a GPU's own kernels do it already.

B batch, T context length, X input width, H hidden; time comes first, as the loop reads it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class LSTMSequence(Function):
    """`[T, B, X]` to hidden states `[T, B, H]` from a zero state; gates in the order i, f, g, o."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor) -> Tensor:
        """Run the layer; `bias` is the sum of both of PyTorch's."""
        steps, batch, _ = x.shape
        hidden = recurrent.shape[1]
        gates = torch.addmm(bias, x.flatten(0, 1), weight.t()).view(steps, batch, 4 * hidden)
        cells, states = x.new_empty(2, steps, batch, hidden)
        for t in range(steps):
            if t:
                gates[t].addmm_(states[t - 1], recurrent.t())
            i, f, g, o = gates[t].chunk(4, 1)
            i.sigmoid_(), f.sigmoid_(), g.tanh_(), o.sigmoid_()
            torch.mul(i, g, out=cells[t])
            if t:
                cells[t].addcmul_(f, cells[t - 1])
            torch.mul(o, cells[t].tanh(), out=states[t])
        ctx.save_for_backward(x, weight, recurrent, gates, cells, states)
        return states

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of forward's arguments."""
        x, weight, recurrent, gates, cells, states = ctx.saved_tensors
        d_gates = torch.empty_like(gates)
        d_state, d_cell = torch.zeros_like(states[0]), torch.zeros_like(states[0])
        for t in range(len(x) - 1, -1, -1):
            i, f, g, o = gates[t].chunk(4, 1)
            before = cells[t - 1] if t else torch.zeros_like(cells[0])
            squashed = cells[t].tanh()
            d_state = d_state + outer[0][t]
            d_cell = d_cell + d_state * o * (1 - squashed * squashed)
            d_i, d_f, d_g, d_o = d_gates[t].chunk(4, 1)
            torch.mul(d_cell * g, i * (1 - i), out=d_i)
            torch.mul(d_cell * before, f * (1 - f), out=d_f)
            torch.mul(d_cell * i, 1 - g * g, out=d_g)
            torch.mul(d_state * squashed, o * (1 - o), out=d_o)
            if t:
                d_state, d_cell = d_gates[t] @ recurrent, d_cell * f
        flat = d_gates.flatten(0, 1)
        d_x = (flat @ weight).view_as(x) if ctx.needs_input_grad[0] else None
        d_recurrent = d_gates[1:].flatten(0, 1).t() @ states[:-1].flatten(0, 1)
        return d_x, flat.t() @ x.flatten(0, 1), d_recurrent, flat.sum(0)


class GRUSequence(Function):
    """`[T, B, X]` to hidden states `[T, B, H]` from a zero state; gates in the order r, z, n."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor, recurrent_bias: Tensor) -> Tensor:
        """Run the layer. The biases stay apart, because r multiplies n's recurrent one."""
        steps, batch, _ = x.shape
        hidden = recurrent.shape[1]
        gates = torch.addmm(bias, x.flatten(0, 1), weight.t()).view(steps, batch, 3 * hidden)
        reset, states = x.new_empty(2, steps, batch, hidden)  # reset: what r multiplies
        state = x.new_zeros(batch, hidden)
        for t in range(steps):
            from_state = torch.addmm(recurrent_bias, state, recurrent.t())
            r_z, n = gates[t].split((2 * hidden, hidden), 1)
            r_z.add_(from_state[:, : 2 * hidden]).sigmoid_()
            r, z = r_z.chunk(2, 1)
            reset[t] = from_state[:, 2 * hidden :]
            n.addcmul_(r, reset[t]).tanh_()
            state = torch.lerp(n, state, z, out=states[t])
        ctx.save_for_backward(x, weight, recurrent, gates, reset, states)
        return states

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of forward's arguments."""
        x, weight, recurrent, gates, reset, states = ctx.saved_tensors
        d_gates, d_recurrent_gates = torch.empty_like(gates), torch.empty_like(gates)
        d_state = torch.zeros_like(states[0])
        for t in range(len(x) - 1, -1, -1):
            r, z, n = gates[t].chunk(3, 1)
            before = states[t - 1] if t else torch.zeros_like(states[0])
            d_state = d_state + outer[0][t]
            d_r, d_z, d_n = d_gates[t].chunk(3, 1)
            torch.mul(d_state * (1 - z), 1 - n * n, out=d_n)
            torch.mul(d_state * (before - n), z * (1 - z), out=d_z)
            torch.mul(d_n * reset[t], r * (1 - r), out=d_r)
            d_recurrent_gates[t] = d_gates[t]
            d_recurrent_gates[t].chunk(3, 1)[2].mul_(r)
            if t:
                d_state = torch.addmm(d_state * z, d_recurrent_gates[t], recurrent)
        flat, flat_recurrent = d_gates.flatten(0, 1), d_recurrent_gates.flatten(0, 1)
        d_x = (flat @ weight).view_as(x) if ctx.needs_input_grad[0] else None
        d_recurrent = d_recurrent_gates[1:].flatten(0, 1).t() @ states[:-1].flatten(0, 1)
        return d_x, flat.t() @ x.flatten(0, 1), d_recurrent, flat.sum(0), flat_recurrent.sum(0)
