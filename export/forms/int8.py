"""What every int8 reader of a form shares: how its weights are rounded, and where the norms' means go.

Centres. The output of a LayerNorm has a mean per feature, far from zero after a GELU, and a scale for max|row| spends
its steps on that constant. So the mean over some contexts is subtracted before rows are rounded, and its product with
the weight is added to the bias. The function stays the same, and a quarter of the drift is left.

Diagonals. A weight that hands its input on is near a multiple of the identity, and its scale spends its steps on the
diagonal: LSTMs and Transformers that start from a ranked average drifted by 3e-3. Where rounding a square block of
columns shows in the result, the diagonal is multiplied in float32 and only the rest is rounded.

K inputs and N outputs of a product, T context length, D vector.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lvm_runtime.artifact.fingerprint import probe_contexts, random_contexts

from .base import Form
from .ops import Norm, TorchOps
from .refinements import refine
from .rounding import Rounded, quantise_weight, value

ROWS = 64
"""Rows of each product on which its rounding is measured."""
LARGEST_ERROR = 1.5e-4
"""Share of a product's squares that rounding its weight may add; half of it is drift where nothing else is added.

Weights with evenly spread numbers add 5.5e-5, normally spread ones 1e-4.
"""
FINER = 0.5
"""Share of its steps that a weight has to lose with its diagonal."""
VECTORS, FEWEST = 160, 8
"""Vectors of the contexts on which the form's drift is estimated, and the fewest contexts."""
PROBE_SEED = 2
"""Not that of the contexts on which norms are centred, nor that of those on which a file is verified."""


class Calibration(TorchOps):
    """What int8 takes from `contexts` `[n, T, D]` like those to come: centres, and which weights round badly.

    It changes the drift and nothing else. Without contexts, random unit vectors stand in for them.
    """

    def __init__(self, form: Form, contexts: NDArray[np.float32] | None = None) -> None:
        self._form = form
        self._centres: dict[int, Tensor] = {}  # by the id of the norm's bias
        self._products: dict[int, tuple[Tensor, Tensor]] = {}  # rows, and what was made of them, by weight
        self._shares: dict[int, float] = {}  # multiply-adds, by weight
        self._rounded: dict[int, Rounded] = {}
        if contexts is None or not len(contexts):
            contexts = probe_contexts(form.config.dim, form.length)
        self._contexts = contexts
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
        self._centres[id(norm.bias)] = result.mean(dim=0)
        return result

    def centre(self, norm: Norm) -> Tensor:
        """Return the mean `[width]` of what the norm hands on."""
        return self._centres[id(norm.bias)]

    def round(self, weight: Tensor) -> Rounded:
        """Return the weight in int8, and in float32 what int8 cannot hold."""
        if not self._rounded:
            weights = [weight for weight in self._form.buffers() if id(weight) in self._products]
            self._rounded = {id(weight): self._round(weight) for weight in weights}
            refine(self._form, self._probes(), self._rounded, self._shares, self.centre)
        return self._rounded[id(weight)]

    def _probes(self) -> NDArray[np.float32]:
        """Return contexts to estimate the drift on: up to half of them given, the others random."""
        length, count = self._form.length, max(FEWEST, VECTORS // self._form.length)
        given = self._contexts[: count // 2]
        random = random_contexts(count - len(given), length, self._form.config.dim, seed=PROBE_SEED)
        return np.concatenate([given, random])

    def _round(self, weight: Tensor) -> Rounded:
        term, diagonals, rest = quantise_weight(weight.numpy()), dict[int, Tensor](), weight
        for start in self._bad_squares(weight, weight - value(*term)):
            square = weight[:, start : start + len(weight)]
            empty = square - torch.diag(square.diagonal())
            if np.median(quantise_weight(empty.numpy())[1] / term[1][start : start + len(weight)]) < FINER:
                diagonals[start] = square.diagonal().clone()
                rest = torch.cat([rest[:, :start], empty, rest[:, start + len(weight) :]], dim=1)
        return Rounded(quantise_weight(rest.numpy()) if diagonals else term, diagonals, rest)

    def _bad_squares(self, weight: Tensor, residual: Tensor) -> list[int]:
        """Return the first columns of the square blocks whose results the error of rounding, `residual`, shows in."""
        size, outputs = weight.shape
        starts = range(0, outputs, size) if outputs % size == 0 else ()
        return [at for at in starts if self._error(weight, residual[:, at : at + size], at) > LARGEST_ERROR]

    def _error(self, weight: Tensor, residual: Tensor, start: int) -> float:
        """Return the squares that `residual` `[K, n]` adds to the results of columns from `start` on, as a share."""
        rows, result = self._products[id(weight)]
        own = result[:, start : start + residual.shape[1]].square().sum()
        return float((rows @ residual).square().sum() / own.clamp_min(torch.finfo(own.dtype).tiny))
