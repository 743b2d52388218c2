"""What every int8 reader of a form shares: how weights are rounded, and where the norms' means go.

CPUs. x86 without VNNI multiplies bytes with VPMADDUBSW, which adds two neighbouring products in 16 bits and
saturates: with weights up to ±127 a model that is right on one machine drifts by 2e-2 on the next. Two neighbours
(along the inner axis, of one output channel) therefore never add up to more than 128 here: 255 · 128 < 2¹⁵.

Centres. What a LayerNorm hands on has a mean of its own per feature, after a GELU far from zero, and a scale for
max|row| spends its steps on that constant. So its mean over some contexts is taken off before rows are rounded, and
comes back, multiplied by the weight, in the product's bias: the same function, a quarter of the drift.

Diagonals. A weight that passes on what it gets is near a multiple of the identity: its scale spends its steps on the
diagonal: LSTMs and Transformers that start from a ranked average drifted by 3e-3. Where rounding shows in what a square
block of columns returns, the diagonal is multiplied in float32 and only the rest is rounded. Where it shows still, and
the product is a small one, what rounding left of the weight is rounded as well, and added.

K inputs and N outputs of a product, T context length, D vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lvm_runtime.artifact.fingerprint import probe_contexts

from .base import Form
from .ops import Norm, TorchOps

STEPS = 127
PAIR_STEPS = 128
ROWS = 64
"""Rows of each product on which its rounding is measured."""
LARGEST_ERROR = 1.5e-4
"""Share of a product's squares that rounding its weight may add; half of it is drift where nothing else is added.

Weights with evenly spread numbers add 5.5e-5, normally spread ones 1e-4.
"""
SMALL_SHARE = 0.02
"""Share of the form's multiply-adds up to which a product may be computed twice."""
FINER = 0.5
"""Share of its steps that a weight has to lose with its diagonal."""


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


@dataclass(frozen=True, slots=True)
class Rounded:
    """A weight `[K, N]` as int8 terms with their scales, whose sum it is, and diagonals `[K]` by their first column.

    `rest` `[K, N]` is what the terms stand for: the weight without the diagonals.
    """

    terms: list[tuple[NDArray[np.int8], NDArray[np.float32]]]
    diagonals: dict[int, Tensor]
    rest: Tensor


class Calibration(TorchOps):
    """What int8 takes from `contexts` `[n, T, D]` like those to come: centres, and which weights round badly.

    It changes the drift and nothing else. Without contexts, random unit vectors stand in for them.
    """

    def __init__(self, form: Form, contexts: NDArray[np.float32] | None = None) -> None:
        self._found: dict[int, Tensor] = {}
        self._products: dict[int, tuple[Tensor, Tensor]] = {}  # rows, and what was made of them, by weight
        self._shares: dict[int, float] = {}  # multiply-adds, by weight
        self._rounded: dict[int, Rounded] = {}
        if contexts is None or not len(contexts):
            contexts = probe_contexts(form.config.dim, form.length)
        dtype = next(form.buffers()).dtype
        with torch.no_grad():
            form.contexts(self, torch.from_numpy(contexts).to(dtype))

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Compute as TorchOps does, and note some rows."""
        result = super().linear(x, weight, bias)
        self._products.setdefault(id(weight), (x[:ROWS], result[:ROWS]))
        self._shares[id(weight)] = self._shares.get(id(weight), 0.0) + len(x) * weight.numel()
        return result

    def layer_norm(self, x: Tensor, norm: Norm) -> Tensor:
        """Compute as TorchOps does, and note the mean."""
        result = super().layer_norm(x, norm)
        self._found[id(norm.bias)] = result.mean(dim=0)
        return result

    def centre(self, norm: Norm) -> Tensor:
        """Return the mean `[width]` of what the norm hands on."""
        return self._found[id(norm.bias)]

    def round(self, weight: Tensor) -> Rounded:
        """Return the weight in int8, and in float32 what int8 cannot hold."""
        if id(weight) not in self._rounded:
            self._rounded[id(weight)] = self._round(weight)
        return self._rounded[id(weight)]

    def _round(self, weight: Tensor) -> Rounded:
        term, diagonals, rest = quantise_weight(weight.numpy()), {}, weight
        for start in self._bad_squares(weight, weight - _value(*term)):
            square = weight[:, start : start + len(weight)]
            empty = square - torch.diag(square.diagonal())
            if np.median(quantise_weight(empty.numpy())[1] / term[1][start : start + len(weight)]) < FINER:
                diagonals[start] = square.diagonal().clone()
                rest = torch.cat([rest[:, :start], empty, rest[:, start + len(weight) :]], dim=1)
        if diagonals:
            term = quantise_weight(rest.numpy())
        left = rest - _value(*term)
        small = self._shares[id(weight)] <= SMALL_SHARE * sum(self._shares.values())
        more = small and self._error(weight, left) > LARGEST_ERROR
        return Rounded([term, quantise_weight(left.numpy())] if more else [term], diagonals, rest)

    def _bad_squares(self, weight: Tensor, left: Tensor) -> list[int]:
        """Return where the square blocks of columns begin that `left`, what rounding takes off, shows in."""
        size, outputs = weight.shape
        starts = range(0, outputs, size) if outputs % size == 0 else ()
        return [at for at in starts if self._error(weight, left[:, at : at + size], at) > LARGEST_ERROR]

    def _error(self, weight: Tensor, left: Tensor, start: int = 0) -> float:
        """Return the squares that `left` `[K, n]` adds to the columns from `start` on, as a share of their own."""
        rows, result = self._products[id(weight)]
        own = result[:, start : start + left.shape[1]].square().sum()
        return float((rows @ left).square().sum() / own.clamp_min(torch.finfo(own.dtype).tiny))


def _value(values: NDArray[np.int8], scale: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(values * scale.astype(np.float64))
