"""Int8 products in an ONNX graph that keep a row's answer independent of its batch-mates.

onnxruntime's own dynamic quantisation takes one activation scale for the whole batch. Here each row has its
own: r = max|row|, row/r is quantised with the constant step 1/127 around the zero point 128, and the product of
integers, with one weight scale per output channel, is multiplied by r. The integers are exact, so nothing that
another row holds can change them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from export.graph import CONTRIB, GraphOps, Node

STEPS = 127
TINY = 1e-30
"""Added to each row's largest magnitude, so that a row of zeros is divided by something."""


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

    def linear(self, x: Node, weight: Tensor, bias: Tensor | None = None) -> Node:
        integers, scale = self._quantise_rows(x)
        name = self._names[id(weight)]
        if f"{name}_int8" not in self.initialisers:
            values, steps = quantise_weight(weight.numpy())
            self.constant(f"{name}_int8", values)
            self.constant(f"{name}_scale", steps)
        step, zero = self._step(), self._zero()
        product = self.node(
            "MatMulIntegerToFloat",
            [integers.name, f"{name}_int8", step, f"{name}_scale", zero],
            (-1, weight.shape[1]),
            domain=CONTRIB,
        )
        result = self.mul(product, scale)
        return result if bias is None else self.add(result, bias)

    def _quantise_rows(self, x: Node) -> tuple[Node, Node]:
        """Return `x` as uint8 around 128 with each row scaled to ±127, and the rows' scales `[rows, 1]`."""
        if x.name not in self._quantised:
            size = self.node("Abs", [x.name], x.shape)
            largest = self.node("ReduceMax", [size.name, self.integers(-1)], (-1, 1), keepdims=1)
            tiny = self.constant("tiny", np.array([TINY], np.float32))
            scale = self.node("Max", [largest.name, tiny], (-1, 1))
            unit = self.node("Div", [x.name, scale.name], x.shape)
            integers = self.node("QuantizeLinear", [unit.name, self._step(), self._zero()], x.shape)
            self._quantised[x.name] = integers, scale
        return self._quantised[x.name]

    def _step(self) -> str:
        return self.constant("step", np.array(1 / STEPS, np.float32))

    def _zero(self) -> str:
        return self.constant("zero", np.array(128, np.uint8))
