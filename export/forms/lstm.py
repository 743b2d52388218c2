"""Deployment form of the LSTM, unrolled.

The input product of all T steps is one product; the two biases are one; the first step has no hidden state
and so no recurrent product and no forget gate.

B batch, T context length, D vector, H hidden.
"""

from __future__ import annotations

from lvm_runtime.models.lstm import LSTM

from .base import Form, Window
from .ops import Ops, Value


class LSTMForm(Form):
    """21.9 M instead of 24.0 M multiply-adds at D=768, T=5."""

    def __init__(self, model: LSTM) -> None:
        super().__init__(model.config)
        self.layers = model.config.num_layers
        self.hidden = model.config.hidden_dim
        for layer in range(self.layers):
            w_ih, w_hh, b_ih, b_hh = model.lstm.layer_weights(layer)
            self.keep(f"input{layer}_weight", w_ih.T)  # [D or H, 4H]
            self.keep(f"input{layer}_bias", b_ih + b_hh)
            self.keep(f"recurrent{layer}_weight", w_hh.T)
        self.keep("output_weight", model.output_proj.weight.T)
        self.keep("output_bias", model.output_proj.bias)

    def widths(self) -> tuple[int, ...]:
        """The first layer's gates."""
        return (4 * self.hidden,)

    def project(self, ops: Ops, vectors: Value) -> list[Value]:
        """Return the first layer's input products `[rows, 4H]`."""
        return [ops.linear(vectors, self.input0_weight, self.input0_bias)]

    def combine(self, ops: Ops, windows: list[Window]) -> tuple[Value, ...]:
        """Return the prediction `[B, D]`."""
        gates = windows[0]
        for layer in range(self.layers):
            states = self._run_layer(ops, gates, layer)
            if layer + 1 < self.layers:
                inputs = ops.reshape(ops.concat(states), -1, self.hidden)  # [B·T, H]
                name = f"input{layer + 1}"
                product = ops.linear(inputs, getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias"))
                gates = self.window(ops, product, 4 * self.hidden)
        return (ops.normalise(ops.linear(states[-1], self.output_weight, self.output_bias)),)

    def _run_layer(self, ops: Ops, gates: Window, layer: int) -> list[Value]:
        """Return the hidden states `[B, H]` of all steps from their input products `[B, 4H]`."""
        recurrent = getattr(self, f"recurrent{layer}_weight")
        states: list[Value] = []
        cell: Value = None
        for (sums,) in gates.step_parts(4 * self.hidden):
            if states:
                sums = ops.linear(states[-1], recurrent, sums)
            i, f, g, o = ops.split(sums, [self.hidden] * 4)
            fresh = ops.mul(ops.sigmoid(i), ops.tanh(g))
            cell = fresh if cell is None else ops.add(ops.mul(ops.sigmoid(f), cell), fresh)
            states.append(ops.mul(ops.sigmoid(o), ops.tanh(cell)))
        return states
