"""Int8 products in an ONNX graph that keep a row's answer independent of its batch-mates.

onnxruntime's own dynamic quantisation takes one activation scale for the whole batch. Here each row has its
own: r = max|row|, row·127/r is rounded around the zero point 128, and the product of integers, with one weight
scale per output channel, is multiplied by r. The integers are exact, so nothing that another row holds can
change them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from export.graph import CONTRIB, GraphOps, Node

STEPS = 127


def quantise_weight(weight: NDArray[np.floating]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 weights `[in, out]` and one scale per output channel `[out]`; a channel of zeros has scale 1."""
    scale = np.abs(weight).max(axis=0) / STEPS
    scale[scale == 0] = 1.0
    return np.round(weight / scale).astype(np.int8), scale.astype(np.float32)


class Int8GraphOps(GraphOps):
    """GraphOps whose products with weights run in int8; everything else stays float32."""

    def __init__(self, form: Any) -> None:
        super().__init__(form)
        self._quantised: dict[str, tuple[Node, Node]] = {}

    def linear(self, x: Node, weight: Tensor, bias: Node | Tensor | None = None) -> Node:
        integers, largest = self._quantise_rows(x)
        result = self._product(integers, largest, weight, steps=STEPS, zero=128)
        return result if bias is None else self.add(result, bias)

    def feed_forward(self, x: Node, wide: Tensor, bias: Tensor, narrow: Tensor) -> Node:
        """Let the quantisation do the ReLU: around the zero point 0 it cuts what is negative, with all 255 steps left.

        A row without a positive value is scaled by 255/0 to −∞ and cut to zeros as well.
        """
        hidden = self.linear(x, wide, bias)
        largest = self.node("ReduceMax", [hidden.name, self.integers(-1)], (-1, 1), keepdims=1)
        positive = self.node("Max", [largest.name, self.constant("nothing", np.zeros(1, np.float32))], (-1, 1))
        return self._product(self._to_steps(hidden, positive, 2 * STEPS + 1, 0), positive, narrow, 2 * STEPS + 1, 0)

    def _quantise_rows(self, x: Node) -> tuple[Node, Node]:
        """Return `x` as uint8 around 128 with each row scaled to ±127, and the rows' largest magnitudes `[rows, 1]`.

        A row of zeros becomes 0/0 and then some integer or other, which its largest magnitude of 0 multiplies away.
        """
        if x.name not in self._quantised:
            size = self.node("Abs", [x.name], x.shape)
            largest = self.node("ReduceMax", [size.name, self.integers(-1)], (*x.shape[:-1], 1), keepdims=1)
            self._quantised[x.name] = self._to_steps(x, largest, STEPS, 128), largest
        return self._quantised[x.name]

    def _to_steps(self, x: Node, largest: Node, steps: int, zero: int) -> Node:
        """Return `round(x · steps / largest) + zero` as uint8."""
        factor = self.node("Div", [self._number(steps), largest.name], largest.shape)
        inputs = [self.mul(x, factor).name, self._number(1), self._zero(zero)]
        return self.node("QuantizeLinear", inputs, x.shape)

    def _product(self, integers: Node, largest: Node, weight: Tensor, steps: int, zero: int) -> Node:
        """Return the product with a weight, each row scaled back by its largest magnitude."""
        name = self._names[id(weight)]
        if f"{name}_int8" not in self.initialisers:
            values, scales = quantise_weight(weight.numpy())
            self.constant(f"{name}_int8", values)
            self.constant(f"{name}_scale", (scales / steps).astype(np.float32))
        inputs = [integers.name, f"{name}_int8", self._number(1), f"{name}_scale", self._zero(zero)]
        product = self.node("MatMulIntegerToFloat", inputs, (*integers.shape[:-1], weight.shape[1]), domain=CONTRIB)
        return self.mul(product, largest)

    def _number(self, value: int) -> str:
        return self.constant(f"f_{value}", np.array(value, np.float32))

    def _zero(self, value: int) -> str:
        return self.constant(f"zero_{value}", np.array(value, np.uint8))
