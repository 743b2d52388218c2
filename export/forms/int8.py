"""What every int8 reader of a form shares: how weights are rounded, and where the norms' means go.

CPUs. x86 without VNNI multiplies bytes with VPMADDUBSW, which adds two neighbouring products in 16 bits and
saturates: with weights up to ±127 a model that is right on one machine drifts by 2e-2 on the next. Two neighbours
(along the inner axis, of one output channel) therefore never add up to more than 128 here: 255 · 128 < 2¹⁵.

Centres. What a LayerNorm hands on has a mean of its own per feature, after a GELU far from zero, and a scale for
max|row| spends its steps on that constant. So its mean over some contexts is taken off before rows are rounded, and
comes back, multiplied by the weight, in the product's bias: the same function, a quarter of the drift.

T context length, D vector.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lvm_runtime.artifact.fingerprint import probe_contexts

from .base import Form
from .ops import Norm, TorchOps

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


class Centres(TorchOps):
    """The mean of what every norm hands on, over `contexts` `[n, T, D]` like those to come.

    They change the drift and nothing else. Without contexts, random unit vectors stand in for them.
    """

    def __init__(self, form: Form, contexts: NDArray[np.float32] | None = None) -> None:
        self._found: dict[int, Tensor] = {}
        if contexts is None or not len(contexts):
            contexts = probe_contexts(form.config.dim, form.length)
        dtype = next(form.buffers()).dtype
        with torch.no_grad():
            form.contexts(self, torch.from_numpy(contexts).to(dtype))

    def layer_norm(self, x: Tensor, norm: Norm) -> Tensor:
        """Compute as TorchOps does, and note the mean."""
        result = super().layer_norm(x, norm)
        self._found[id(norm.bias)] = result.mean(dim=0)
        return result

    def of(self, norm: Norm) -> Tensor:
        """Return the mean `[width]` of what the norm hands on."""
        return self._found[id(norm.bias)]
