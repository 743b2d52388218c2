"""Numbers in int8: how weights and rows are rounded.

CPUs. x86 without VNNI multiplies bytes with VPMADDUBSW, which adds two neighbouring products in 16 bits and
saturates: with weights up to ±127 a model that is right on one machine drifts by 2e-2 on the next. Two neighbours
(along the inner axis, of one output channel) therefore never add up to more than 128 here: 255 · 128 < 2¹⁵.

K inputs and N outputs of a product, R rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

STEPS = 127
PAIR_STEPS = 128

Term = tuple[NDArray[np.int8], NDArray[np.float32]]
"""Integers `[in, out]`, and the scale of each column `[out]`."""


@dataclass(slots=True)
class Rounded:
    """A weight `[K, N]` as an int8 term, and what is computed beside it.

    `rest` `[K, N]` is what the term stands for: the weight without the `diagonals` `[K]`. `residuals` are terms of the
    error that rounding made in some columns. The keys of both are first columns. With `halves` the positive and the
    negative part of each row are rounded one by one.
    """

    term: Term
    diagonals: dict[int, Tensor]
    rest: Tensor
    residuals: dict[int, Term] = field(default_factory=dict)
    halves: bool = False

    def parts(self) -> list[tuple[int, int]]:
        """Return the columns, cut where a diagonal or a residual begins or ends."""
        inputs, outputs = self.rest.shape
        ends = {start + inputs for start in self.diagonals} | {at + len(term[1]) for at, term in self.residuals.items()}
        return list(pairwise(sorted({0, outputs, *self.diagonals, *self.residuals} | ends)))

    def residual_of(self, start: int, stop: int) -> Term | None:
        """Return the residual's columns of a part, None if the part has no residual."""
        for at, term in self.residuals.items():
            if at <= start < at + len(term[1]):
                return columns(term, start - at, stop - at)
        return None

    def residual(self) -> Tensor:
        """Return the error of the term `[K, N]`: `rest` less what the term stands for."""
        return self.rest - value(*self.term)


def columns(term: Term, start: int, stop: int) -> Term:
    """Return some columns of a term."""
    return term[0][:, start:stop], term[1][start:stop]


def quantise_weight(weight: NDArray[np.floating]) -> Term:
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


def value(values: NDArray[np.int8], scale: NDArray[np.float32]) -> Tensor:
    """Return the weight `[in, out]` in float64 that a term stands for."""
    return torch.from_numpy(values * scale.astype(np.float64))


def round_rows(rows: Tensor, *, positive: bool) -> Tensor:
    """Return `rows` `[R, K]` as a product sees them: in steps of 1/127 of each row's largest magnitude.

    `positive` ones are in steps of 1/255, and what is negative counts as 0.
    """
    steps = 2 * STEPS + 1 if positive else STEPS
    rows = rows.clamp_min(0) if positive else rows
    step = rows.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny) / steps
    return (rows / step).round() * step


def round_halves(rows: Tensor) -> Tensor:
    """Return `rows` `[R, K]` with their positive and their negative part rounded one by one."""
    return round_rows(rows, positive=True) - round_rows(-rows, positive=True)
