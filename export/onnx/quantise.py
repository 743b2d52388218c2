"""Int8 products in an ONNX graph that give a row the same answer whatever its batch-mates and whatever the CPU.

Rows. onnxruntime's own dynamic quantisation takes one activation scale for the whole batch. Here each row has its
own: r = max|row|, row·127/r is rounded around the zero point 128, and the product of integers, with one weight
scale per output channel, is multiplied by r. The integers are exact, so nothing that another row holds can
change them.

Weights, centres and diagonals are those of `export.forms.int8`.

B batch, T context length, D vector.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..forms.base import Form
from ..forms.int8 import STEPS, Calibration
from ..forms.ops import Norm
from .graph import CONTRIB, GraphOps, Node


class Int8GraphOps(GraphOps):
    """GraphOps whose products with weights run in int8; everything else stays float32.

    `contexts` `[n, T, D]` are like those to come; they change the drift and nothing else. Random unit vectors
    stand in for them.
    """

    def __init__(self, form: Form, contexts: NDArray[np.float32] | None = None) -> None:
        super().__init__(form)
        self._quantised: dict[str, tuple[Node, Node]] = {}
        self._calibration = Calibration(form, contexts)

    def linear(self, x: Node, weight: Tensor, bias: Node | Tensor | None = None) -> Node:
        result = self._linear(x, weight)
        return result if bias is None else self.add(result, bias)

    def norm_linear(self, x: Node, norm: Norm, weight: Tensor, bias: Tensor) -> Node:
        # the centre moves from the norm's bias into the product's: not one operation more
        centre = self._calibration.centre(norm)
        shifted, moved = (
            self.constant(f"{self._names[id(old)]}_centred", new.numpy().astype(np.float32))
            for old, new in ((norm.bias, norm.bias - centre), (bias, bias + centre @ weight))
        )
        rows = self.norm_node(x, self.weight(norm.weight), shifted, norm.eps)
        product = self._linear(rows, weight)
        return self.node("Add", [product.name, moved], product.shape)

    def feed_forward(self, x: Node, wide: Tensor, bias: Tensor, narrow: Tensor) -> Node:
        """Let the quantisation do the ReLU: around the zero point 0 it cuts what is negative, with all 255 steps left.

        A row without a positive value is scaled by 255/0 to −∞ and cut to zeros as well.
        """
        hidden = self.linear(x, wide, bias)
        largest = self.node("ReduceMax", [hidden.name, self.integers(-1)], (-1, 1), keepdims=1)
        positive = self.node("Max", [largest.name, self.constant("nothing", np.zeros(1, np.float32))], (-1, 1))
        rows = self._to_steps(hidden, positive, 2 * STEPS + 1, 0)
        product = self._product(rows, positive, narrow, 2 * STEPS + 1, 0)
        if not self._calibration.round(narrow).diagonals:
            return product
        return self._add_diagonals(product, self.node("Relu", [hidden.name], hidden.shape), narrow)

    def _linear(self, x: Node, weight: Tensor) -> Node:
        product = self._product(*self._quantise_rows(x), weight, steps=STEPS, zero=128)
        return self._add_diagonals(product, x, weight)

    def _add_diagonals(self, result: Node, x: Node, weight: Tensor) -> Node:
        """Add to a product what its weight's diagonals make of `x`."""
        for start, diagonal in self._calibration.round(weight).diagonals.items():
            name = self.constant(f"{self._names[id(weight)]}_{start}_diagonal", diagonal.numpy().astype(np.float32))
            part = self.node("Mul", [x.name, name], x.shape)
            if part.shape != result.shape:
                pads = self.integers(start, result.width - start - x.width)
                part = self.node("Pad", [part.name, pads, self._number(0), self.integers(-1)], result.shape)
            result = self.add(result, part)
        return result

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
        """Return the product with a weight's int8 terms, each row scaled back by its largest magnitude."""
        name = self._names[id(weight)]
        sums = None
        for index, (values, scales) in enumerate(self._calibration.round(weight).terms):
            term = f"{name}_left" if index else name
            self.constant(f"{term}_int8", values)
            self.constant(f"{term}_scale", (scales / steps).astype(np.float32))
            inputs = [integers.name, f"{term}_int8", self._number(1), f"{term}_scale", self._zero(zero)]
            product = self.node("MatMulIntegerToFloat", inputs, (*integers.shape[:-1], weight.shape[1]), domain=CONTRIB)
            sums = product if sums is None else self.add(sums, product)
        assert sums is not None
        return self.mul(sums, largest)

    def _number(self, value: int) -> str:
        return self.constant(f"f_{value}", np.array(value, np.float32))

    def _zero(self, value: int) -> str:
        return self.constant(f"zero_{value}", np.array(value, np.uint8))
