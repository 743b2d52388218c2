"""What can be had without a model. A model that does not beat these has learnt nothing worth serving.

b batch, T context length, D vector.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.windows import WindowSet
from .metrics import Predict
from .retrieval import rank_rows
from .ridge import fit_ridge

LINEAR_AVERAGE = "linear average"
PERSISTENCE = "persistence"
RECENCY_AVERAGE = "recency average"
RIDGE_MAP = "ridge map"

DECAYS = (0.1, 0.2, 0.3, 0.45, 0.6, 0.8)
"""Weights of the recency average by age, as powers of one of these: between the last vector and the average."""

_DECAY_QUERIES = 500
_DECAY_ROWS = 65_536  # candidates to choose the decay by: the last documents' vectors of a large corpus


@dataclass(frozen=True, slots=True)
class Baselines:
    """The baselines as functions of contexts, by name, and what was chosen on training documents for some."""

    predictors: dict[str, Predict]
    decay: float
    notes: dict[str, str] = field(default_factory=dict)


def linear_average(contexts: Tensor) -> Tensor:
    """Return the direction `[b, D]` of the mean of each context `[b, T, D]`."""
    return F.normalize(contexts.mean(dim=1), dim=1)


def persistence(contexts: Tensor) -> Tensor:
    """Return the direction `[b, D]` of the last vector of each context `[b, T, D]`: a search with the last chunk."""
    return F.normalize(contexts[:, -1], dim=1)


def recency_weights(decay: float, context_length: int) -> Tensor:
    """Return weights `[T]`, oldest first, that fall by `decay` with each step of age and sum to 1."""
    weights = decay ** torch.arange(context_length - 1, -1, -1, dtype=torch.float32)
    return weights / weights.sum()


def recency_average(contexts: Tensor, decay: float) -> Tensor:
    """Return the direction `[b, D]` of the average that weighs a vector `decay` times as much as the one after it."""
    weights = recency_weights(decay, contexts.shape[1]).to(contexts.device)
    return F.normalize(torch.einsum("btd,t->bd", contexts, weights), dim=1)


def mean_vector(train: WindowSet) -> Tensor:
    """Return the direction `[D]` of the mean training target, summed in float64 where the device has it."""
    dtype = torch.float32 if train.starts.device.type == "mps" else torch.float64
    total = torch.zeros(train.store.dim, dtype=dtype, device=train.starts.device)
    for starts in train.batches(8192):
        total += train.store.rows(starts + train.context_length).to(dtype).sum(dim=0)
    return F.normalize(total.float(), dim=0)


def choose_decay(train: WindowSet) -> float:
    """Return the decay with the best reciprocal rank on training documents."""
    end = int(train.starts.max()) + train.context_length + 1
    begin = max(int(train.starts.min()), end - _DECAY_ROWS)
    kept = train.starts >= begin
    windows = WindowSet(train.store, train.starts[kept], train.groups[kept.cpu().numpy()], train.context_length)
    predictors: dict[str, Predict] = {str(decay): partial(recency_average, decay=decay) for decay in DECAYS}
    ranks = rank_rows(predictors, windows, _DECAY_QUERIES, rows=(begin, end))
    return max(DECAYS, key=lambda decay: float((1 / ranks[str(decay)].rank).mean()))


def fit_baselines(train: WindowSet, *, seed: int = 0) -> Baselines:
    """Return every baseline, fitted to training windows where there is something to fit, linear average first."""
    generator = torch.Generator().manual_seed(seed)
    random = F.normalize(torch.randn(train.store.dim, generator=generator), dim=0)
    decay, ridge = choose_decay(train), fit_ridge(train)
    predictors: dict[str, Predict] = {
        LINEAR_AVERAGE: linear_average,
        PERSISTENCE: persistence,
        RECENCY_AVERAGE: partial(recency_average, decay=decay),
        RIDGE_MAP: ridge,
        "mean vector": _constant(mean_vector(train)),
        "random": _constant(random.to(train.starts.device)),
    }
    return Baselines(predictors, decay, {RECENCY_AVERAGE: f"decay {decay:g}", RIDGE_MAP: f"penalty {ridge.penalty:g}"})


def _constant(direction: Tensor) -> Predict:
    return lambda contexts: direction.expand(len(contexts), -1)
