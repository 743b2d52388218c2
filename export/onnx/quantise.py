"""Int8 products in an ONNX graph that give a row the same answer whatever its batch-mates and whatever the CPU.

Rows. onnxruntime's own dynamic quantisation takes one activation scale for the whole batch. Here each row has its
own: r = max|row|, row·127/r is rounded around the zero point 128, and the product of integers, with one weight
scale per output channel, is multiplied by r. The integers are exact, so nothing that another row holds can
change them.

Weights, centres, diagonals and which products are computed more finely are those of `export.forms.int8`.

B batch, T context length, D vector.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..forms.base import Form
from ..forms.int8 import Calibration
from ..forms.ops import Norm
from ..forms.rounding import STEPS, Term
from .graph import CONTRIB, GraphOps, Node


class Rows(NamedTuple):
    """Rows as uint8 `integers` around `zero`, and their `largest` magnitudes `[rows, 1]`, which are `steps`."""

    integers: Node
    largest: Node
    steps: int
    zero: int


class Int8GraphOps(GraphOps):
    """GraphOps whose products with weights run in int8; everything else stays float32.

    `contexts` `[n, T, D]` are like those to come; they change the drift and nothing else. Random unit vectors
    stand in for them.
    """

    def __init__(self, form: Form, contexts: NDArray[np.float32] | None = None) -> None:
        super().__init__(form)
        self._quantised: dict[str, Rows] = {}
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
        product = self._product(
            self._positive_rows(hidden), self._terms(narrow) | self._residual_terms(narrow), narrow.shape[1]
        )
        if not self._calibration.round(narrow).diagonals:
            return product
        return self._add_diagonals(product, self.node("Relu", [hidden.name], hidden.shape), narrow)

    def _linear(self, x: Node, weight: Tensor) -> Node:
        term, residuals, width = self._terms(weight), self._residual_terms(weight), weight.shape[1]
        if not self._calibration.round(weight).halves:
            product = self._product(self._quantise_rows(x), term | residuals, width)
        else:
            halves = x, self.node("Neg", [x.name], x.shape)
            product = self.sub(*(self._product(self._positive_rows(half), term, width) for half in halves))
            if residuals:
                product = self.add(product, self._product(self._quantise_rows(x), residuals, width))
        return self._add_diagonals(product, x, weight)

    def _add_diagonals(self, result: Node, x: Node, weight: Tensor) -> Node:
        """Add to a product what its weight's diagonals make of `x`."""
        for start, diagonal in self._calibration.round(weight).diagonals.items():
            name = self.constant(f"{self._names[id(weight)]}_{start}_diagonal", diagonal.numpy().astype(np.float32))
            part = self.node("Mul", [x.name, name], x.shape)
            result = self.add(result, self._pad(part, start, result.width))
        return result

    def _pad(self, part: Node, start: int, width: int) -> Node:
        """Return `part` as columns from `start` on of a value of `width`, which is 0 in all others."""
        if part.width == width:
            return part
        pads = self.integers(start, width - start - part.width)
        return self.node("Pad", [part.name, pads, self._number(0), self.integers(-1)], (*part.shape[:-1], width))

    def _positive_rows(self, x: Node) -> Rows:
        """Return the positive part of `x` in 255 steps around 0."""
        largest = self.node("ReduceMax", [x.name, self.integers(-1)], (-1, 1), keepdims=1)
        positive = self.node("Max", [largest.name, self.constant("nothing", np.zeros(1, np.float32))], (-1, 1))
        return Rows(self._to_steps(x, positive, 2 * STEPS + 1, 0), positive, 2 * STEPS + 1, 0)

    def _quantise_rows(self, x: Node) -> Rows:
        """Return `x` around 128 with each row scaled to ±127.

        A row of zeros becomes 0/0 and then some integer or other, which its largest magnitude of 0 multiplies away.
        """
        if x.name not in self._quantised:
            size = self.node("Abs", [x.name], x.shape)
            largest = self.node("ReduceMax", [size.name, self.integers(-1)], (*x.shape[:-1], 1), keepdims=1)
            self._quantised[x.name] = Rows(self._to_steps(x, largest, STEPS, 128), largest, STEPS, 128)
        return self._quantised[x.name]

    def _to_steps(self, x: Node, largest: Node, steps: int, zero: int) -> Node:
        """Return `round(x · steps / largest) + zero` as uint8."""
        factor = self.node("Div", [self._number(steps), largest.name], largest.shape)
        inputs = [self.mul(x, factor).name, self._number(1), self._zero(zero)]
        return self.node("QuantizeLinear", inputs, x.shape)

    def _terms(self, weight: Tensor) -> dict[str, tuple[int, Term]]:
        return {self._names[id(weight)]: (0, self._calibration.round(weight).term)}

    def _residual_terms(self, weight: Tensor) -> dict[str, tuple[int, Term]]:
        """Return by name a weight's residuals, each with its first column."""
        name, terms = self._names[id(weight)], self._calibration.round(weight).residuals
        return {f"{name}_{start}_left" if start else f"{name}_left": (start, term) for start, term in terms.items()}

    def _product(self, rows: Rows, terms: dict[str, tuple[int, Term]], width: int) -> Node:
        """Return the sum of the products with the terms of a weight, each row scaled back by its largest magnitude."""
        sums = None
        for name, (start, (values, scales)) in terms.items():
            self.constant(f"{name}_int8", values)
            self.constant(f"{name}_scale", (scales / rows.steps).astype(np.float32))
            inputs = [rows.integers.name, f"{name}_int8", self._number(1), f"{name}_scale", self._zero(rows.zero)]
            shape = (*rows.integers.shape[:-1], len(scales))
            part = self._pad(self.node("MatMulIntegerToFloat", inputs, shape, domain=CONTRIB), start, width)
            sums = part if sums is None else self.add(sums, part)
        assert sums is not None
        return self.mul(sums, rows.largest)

    def _number(self, value: int) -> str:
        return self.constant(f"f_{value}", np.array(value, np.float32))

    def _zero(self, value: int) -> str:
        return self.constant(f"zero_{value}", np.array(value, np.uint8))
