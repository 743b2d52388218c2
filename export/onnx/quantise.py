"""Int8 products in an ONNX graph that give a row the same answer whatever its batch-mates and whatever the CPU.

Rows. onnxruntime's own dynamic quantisation takes one activation scale for the whole batch. Here each row has its
own: r = max|row|, row·127/r is rounded around the zero point 128, and the product of integers, with one weight
scale per output channel, is multiplied by r. The integers are exact, so nothing that another row holds can
change them.

CPUs. x86 without VNNI multiplies bytes with VPMADDUBSW, which adds two neighbouring products in 16 bits and
saturates: with weights up to ±127 a model that is right on one machine drifts by 2e-2 on the next. Two neighbours
(along the inner axis, of one output channel) therefore never add up to more than 128 here: 255 · 128 < 2¹⁵.

Centres. What a LayerNorm hands on has a mean of its own per feature, after a GELU far from zero, and a scale for
max|row| spends its steps on that constant. Its mean over some contexts moves from the norm's bias through the
product into the product's bias: the same function, a quarter of the drift, and not one operation more.

B batch, T context length, D vector.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lvm_runtime.artifact.fingerprint import probe_contexts

from ..forms.base import Form
from ..forms.ops import Norm, TorchOps
from .graph import CONTRIB, GraphOps, Node

STEPS = 127
PAIR_STEPS = 128


def quantise_weight(weight: NDArray[np.floating]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 weights `[in, out]` and one scale per output channel `[out]`; a channel of zeros has scale 1.

    The scale is the smallest at which no weight exceeds ±127 and no two neighbours, as the kernels pair them
    (rows 0 and 1, 2 and 3, …), add up to more than ±128.
    """
    pairs = np.abs(np.add.reduceat(weight, np.arange(0, len(weight), 2), axis=0))
    scale = np.maximum(np.abs(weight).max(axis=0) / STEPS, pairs.max(axis=0) / PAIR_STEPS)
    scale[scale == 0] = 1.0
    values = np.round(weight / scale)
    first, second = values[: len(values) // 2 * 2 : 2], values[1::2]
    over = np.abs(first + second) > PAIR_STEPS  # both were rounded up: by 1 at most, which the second takes back
    second -= np.sign(second) * over
    return values.astype(np.int8), scale.astype(np.float32)


class _Centres(TorchOps):
    """TorchOps that keep the mean of every norm that one product alone reads, by the identity of its bias."""

    def __init__(self) -> None:
        self.found: dict[int, Tensor] = {}

    def norm_linear(self, x: Tensor, norm: Norm, weight: Tensor, bias: Tensor) -> Tensor:
        self.found[id(norm.bias)] = self.layer_norm(x, norm).mean(dim=0)
        return super().norm_linear(x, norm, weight, bias)


class Int8GraphOps(GraphOps):
    """GraphOps whose products with weights run in int8; everything else stays float32.

    `contexts` `[n, T, D]` are like those to come; they decide on the centres, which change the drift and nothing
    else. Random unit vectors stand in for them.
    """

    def __init__(self, form: Form, contexts: NDArray[np.float32] | None = None) -> None:
        super().__init__(form)
        self._quantised: dict[str, tuple[Node, Node]] = {}
        centres = _Centres()
        if contexts is None or not len(contexts):
            contexts = probe_contexts(form.config.dim, form.length)
        dtype = next(form.buffers()).dtype
        with torch.no_grad():
            form.contexts(centres, torch.from_numpy(contexts).to(dtype))
        self._centres = centres.found

    def linear(self, x: Node, weight: Tensor, bias: Node | Tensor | None = None) -> Node:
        result = self._linear(x, weight)
        return result if bias is None else self.add(result, bias)

    def norm_linear(self, x: Node, norm: Norm, weight: Tensor, bias: Tensor) -> Node:
        centre = self._centres[id(norm.bias)]
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
        return self._product(self._to_steps(hidden, positive, 2 * STEPS + 1, 0), positive, narrow, 2 * STEPS + 1, 0)

    def _linear(self, x: Node, weight: Tensor) -> Node:
        return self._product(*self._quantise_rows(x), weight, steps=STEPS, zero=128)

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
