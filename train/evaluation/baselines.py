"""What can be had without a model. A model that does not beat these has learnt nothing worth serving.

b batch, T context length, D vector.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.windows import WindowSet
from .metrics import Predict, RowScores, score_rows

LINEAR_AVERAGE = "linear average"


def linear_average(contexts: Tensor) -> Tensor:
    """Predict the direction of the mean of the context."""
    return F.normalize(contexts.mean(dim=1), dim=1)


def persistence(contexts: Tensor) -> Tensor:
    """Predict the last vector again."""
    return F.normalize(contexts[:, -1], dim=1)


def mean_vector(train: WindowSet, batch_size: int = 8192) -> Tensor:
    """Return the direction `[D]` of the mean training target, summed in float64 where the device has it."""
    dtype = torch.float32 if train.starts.device.type == "mps" else torch.float64
    total = torch.zeros(train.store.dim, dtype=dtype, device=train.starts.device)
    for starts in train.batches(batch_size):
        total += train.store.rows(starts + train.context_length).to(dtype).sum(dim=0)
    return F.normalize(total.float(), dim=0)


def baseline_scores(train: WindowSet, held_out: WindowSet, *, seed: int = 0) -> dict[str, RowScores]:
    """Return the scores of every baseline on `held_out`, by name, linear average first."""
    mean = mean_vector(train)
    generator = torch.Generator().manual_seed(seed)
    random = F.normalize(torch.randn(train.store.dim, generator=generator), dim=0).to(mean.device)
    predictors: dict[str, Predict] = {
        LINEAR_AVERAGE: linear_average,
        "persistence": persistence,
        "mean vector": _constant(mean),
        "random": _constant(random),
    }
    return {name: score_rows(predict, held_out, 4096) for name, predict in predictors.items()}


def _constant(direction: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda contexts: direction.expand(len(contexts), -1)
