"""How much each rounding of a form adds to its drift: what is rounded where, and how far the prediction moves.

For random signs u and a change Δy of a prediction of norm 1, u · Δy has mean square |Δy|² = twice the drift. To first
order, u · Δy is the sum over all products of error · gradient of u · y. So a few backward passes give the drift of
every product and of each of its columns, which would otherwise take a run for each. The sum over all was within
10 % of the drift that trained models had.

n contexts, K inputs and N outputs of a product, R rows of all contexts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .base import Form
from .ops import Norm, TorchOps

SIGNS = 4
"""Backward passes: with 32 contexts, 128 samples of each rounding."""


@dataclass(frozen=True, slots=True)
class Product:
    """One product: `rows` `[R, K]`, `result` `[R, N]`, whether the rows are a ReLU's output, and their LayerNorm."""

    weight: Tensor
    rows: Tensor
    result: Tensor
    positive: bool
    norm: Norm | None


class Error(NamedTuple):
    """What a rounding adds to a product's result `[R, N]`, and the columns of a block: those of two are independent."""

    values: Tensor
    block: int


class _Recorder(TorchOps):
    """TorchOps that keep every product; autograd records what comes after the first one."""

    def __init__(self) -> None:
        self.products: list[Product] = []
        self._norms: dict[int, tuple[Tensor, Norm]] = {}  # by the id of their output, kept alive for that

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return self._linear(x, weight, bias)

    def feed_forward(self, x: Tensor, wide: Tensor, bias: Tensor, narrow: Tensor) -> Tensor:
        return self._linear(self.linear(x, wide, bias).relu(), narrow, None, positive=True)

    def layer_norm(self, x: Tensor, norm: Norm) -> Tensor:
        result = super().layer_norm(x, norm)
        self._norms[id(result)] = result, norm
        return result

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None, *, positive: bool = False) -> Tensor:
        result = super().linear(x, weight, bias)
        if not result.requires_grad:
            result.requires_grad_()
        norm = self._norms[id(x)][1] if id(x) in self._norms else None
        self.products.append(Product(weight, x.detach(), result, positive, norm))
        return result


def drift_of_errors(
    form: Form, contexts: NDArray[np.float32], errors: Callable[[Product], dict[str, Error]]
) -> dict[tuple[int, str], Tensor]:
    """Return the mean drift over `contexts` `[n, T, D]` that each of a product's `errors` causes, one for each block.

    The keys are the weight's id and the error's name. Products that share a weight have one error together.
    """
    recorder, rng = _Recorder(), np.random.default_rng(0)
    with torch.enable_grad():
        y = form.contexts(recorder, torch.from_numpy(contexts).to(next(form.buffers()).dtype))[0]
        y = TorchOps().normalise(y)
    with torch.no_grad():
        made = [errors(product) for product in recorder.products]
    found: dict[tuple[int, str], Tensor] = {}
    for _ in range(SIGNS):
        signs = torch.from_numpy(rng.choice([-1.0, 1.0], y.shape)).to(y.dtype)
        results = [product.result for product in recorder.products]
        gradients = torch.autograd.grad(y, results, signs, retain_graph=True, materialize_grads=True)
        moved: dict[tuple[int, str], Tensor] = {}
        for product, gradient, by_name in zip(recorder.products, gradients, made, strict=True):
            for name, (error, block) in by_name.items():
                key = id(product.weight), name
                columns = (gradient * error).reshape(len(y), -1, error.shape[1]).sum(dim=1)  # [n, N]
                blocks = torch.stack([part.sum(dim=1) for part in columns.split(block, dim=1)], dim=1)
                moved[key] = moved.get(key, 0) + blocks
        for key, blocks in moved.items():
            found[key] = found.get(key, 0) + blocks.square().mean(dim=0) / (2 * SIGNS)
    return found
