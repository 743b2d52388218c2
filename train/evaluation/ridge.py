"""The ridge map: the best linear function of all T context vectors, the strongest baseline for cosine.

n windows, T context length, D vector, X = T · D inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.holdout import hold_out
from ..data.windows import WindowSet
from .metrics import Predict

PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Ridge penalties, as shares of the inputs' mean variance times n."""

FIT_WINDOWS = 40_000
HELD_WINDOWS = 2_000  # to choose the penalty by
_BATCH = 2048


@dataclass(frozen=True, slots=True)
class RidgeMap:
    """Maps contexts to the direction of `mean + context · weight`, with the penalty that was chosen."""

    weight: Tensor  # [X, D]
    mean: Tensor  # [D]
    penalty: float

    def __call__(self, contexts: Tensor) -> Tensor:
        """Return unit predictions `[b, D]` for contexts `[b, T, D]`."""
        return F.normalize(torch.addmm(self.mean, contexts.flatten(1), self.weight), dim=1)


def fit_ridge(windows: WindowSet) -> RidgeMap:
    """Fit on training windows; the penalty is the one with the best cosine on documents kept out of the fit."""
    fit, held = hold_out(windows)
    device = windows.starts.device
    moments, judged = _moments(fit.sample(FIT_WINDOWS)), held.sample(HELD_WINDOWS)
    contexts, targets = judged.batch(judged.starts)

    def cosine(penalty: float) -> float:
        predict: Predict = _solve(moments, penalty, device)
        return float(F.cosine_similarity(predict(contexts), targets, dim=1).mean())

    penalty = max(PENALTIES, key=cosine)
    both = [a + b for a, b in zip(moments, _moments(judged), strict=True)] if judged is not windows else moments
    return _solve(both, penalty, device)


def _moments(windows: WindowSet) -> list[Tensor]:
    """Return sums over windows in float64 on the CPU: of inputs' products `[X, X]`, with targets `[X, D]`, and counts.

    Products of a batch are in float32, their sum in float64; the lower half of the first is left empty.
    """
    steps, dim = windows.context_length, windows.store.dim
    own = torch.zeros(steps * dim, steps * dim, dtype=torch.float64)
    cross = torch.zeros(steps * dim, dim, dtype=torch.float64)
    sums = torch.zeros(steps * dim + dim, dtype=torch.float64)
    for starts in windows.batches(_BATCH):
        contexts, targets = (x.cpu() for x in windows.batch(starts))
        inputs, targets = contexts.flatten(1), F.normalize(targets, dim=1)
        for t in range(steps):  # only what lies right of the diagonal: 3/5 of the products at T = 5
            own[t * dim : (t + 1) * dim, t * dim :] += contexts[:, t].T @ inputs[:, t * dim :]
        cross += inputs.T @ targets
        sums += torch.cat([inputs.sum(dim=0), targets.sum(dim=0)])
    return [own, cross, sums, torch.tensor(float(len(windows)), dtype=torch.float64)]


def _solve(moments: list[Tensor], penalty: float, device: torch.device) -> RidgeMap:
    own, cross, sums, count = moments
    inputs, targets = sums[: len(own)], sums[len(own) :]
    covariance = own.triu() + own.triu(1).T - torch.outer(inputs, inputs) / count
    covariance.diagonal().add_(penalty * covariance.diagonal().mean() + 1e-9 * count)
    factor = torch.linalg.cholesky(covariance)
    weight = torch.cholesky_solve(cross - torch.outer(inputs, targets) / count, factor)
    mean = (targets - inputs @ weight) / count
    return RidgeMap(weight.float().to(device), mean.float().to(device), penalty)
