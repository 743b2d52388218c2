"""Start the LSTM, the GRU and the Transformer at a linear map that ranks.

The core is set to carry the recency-weighted average, as in `warm_start`, and the last layer to hand it on. A map
`[D, D]` of that average, from the identity on, is then trained by the ranking loss alone and folded into the last
layer: seconds of work, since the core's output is computed once. The map is symmetric, which halves its numbers and
finds no less. Training documents kept out of it choose the epoch. What the whole network learns comes on top.

n windows, D vector, H hidden.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lvm_runtime.errors import counted
from lvm_runtime.models.amn import RECENCY_DECAY
from lvm_runtime.models.lstm import LSTM
from lvm_runtime.models.transformer import Transformer

from .data.holdout import hold_out
from .data.windows import WindowSet
from .ranking import CorpusRanking
from .warm_start import core_moments, last_layer_features, projection, set_core, set_last_layer

STEPS = 200  # and two passes over the windows at least
RATE = 5e-4
BATCH = 256
AVERAGE = 0.99  # decay of the running average of the map, which is what is judged and kept
LSTM_GAIN = 0.2  # of the vectors in its cells: where tanh bends, a search finds less than with the average itself
PASSING_WINDOWS = 6_000
HELD_WINDOWS = 2_000
_WARMUP = 30


@dataclass(frozen=True, slots=True)
class RankedStart:
    """What was set: the decay of the average, the epochs of the map, its loss on training documents kept out of it."""

    decay: float
    epochs: int
    loss: float

    def __str__(self) -> str:
        return (
            f"a map of the average with decay {self.decay:.2g}, trained to rank for {counted(self.epochs, 'epoch')}: "
            f"loss {self.loss:.4f} on training documents kept out of it"
        )


def start_ranked(
    model: nn.Module, windows: WindowSet, ranking: CorpusRanking, *, cosine_weight: float, seed: int
) -> RankedStart:
    """Set the weights of `model`, which is on the windows' device, to a linear map trained by the ranking loss."""
    decay = RECENCY_DECAY
    if isinstance(model, Transformer):  # its core carries the last vector and the even average of the others
        others = windows.context_length - 1
        decay = sum(decay**age for age in range(1, others + 1)) / max(others, 1)
    vectors = projection(windows, model.config.hidden_dim, seed)  # type: ignore[union-attr,arg-type]
    set_core(model, vectors * LSTM_GAIN if isinstance(model, LSTM) else vectors, decay)
    passing = core_moments(model, windows.sample(PASSING_WINDOWS), decay).passing()  # [H+1, D]
    fit, held = hold_out(windows)
    held = held.sample(HELD_WINDOWS)
    maps = _train_map(_passed(model, fit, passing), fit, ranking, cosine_weight, seed)
    features = _passed(model, held, passing)
    with torch.no_grad():
        losses = [float(_losses(features, held, weight, ranking, cosine_weight).mean()) for weight in maps]
    best = losses.index(min(losses))
    set_last_layer(model, passing @ maps[best].cpu().double())
    return RankedStart(decay, best, losses[best])


@torch.no_grad()
def _passed(model: nn.Module, windows: WindowSet, passing: Tensor) -> Tensor:
    """Return the average that the last layer hands on for every window `[n, D]`."""
    contexts = (windows.batch(starts)[0] for starts in windows.batches(BATCH))
    return torch.cat([(last_layer_features(model, x) @ passing).float().to(x.device) for x in contexts])


def _losses(
    features: Tensor, windows: WindowSet, weight: Tensor, ranking: CorpusRanking, cosine_weight: float, step: int = 0
) -> Tensor:
    targets = windows.store.rows(windows.starts + windows.context_length)
    predictions = F.normalize(features @ weight, dim=1)
    losses = ranking(predictions, windows.starts, targets, step)
    return losses + cosine_weight * (1 - F.cosine_similarity(predictions, targets, dim=1))


def _train_map(
    features: Tensor, windows: WindowSet, ranking: CorpusRanking, cosine_weight: float, seed: int
) -> list[Tensor]:
    """Return the identity and the averaged map `[D, D]` after each epoch."""
    half = torch.zeros(features.shape[1], features.shape[1], device=features.device, requires_grad=True)
    average = half.detach().clone()
    maps = [_symmetric(average)]
    optimizer = torch.optim.AdamW([half], lr=RATE)
    steps = math.ceil(len(windows) / BATCH)
    total, step = max(2 * steps, STEPS), 0
    for epoch in range(total // steps):
        order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        for batch in order.split(BATCH):
            part = WindowSet(windows.store, windows.starts[batch], windows.groups[batch], windows.context_length)
            optimizer.zero_grad()
            _losses(features[batch], part, _symmetric(half), ranking, cosine_weight, step).mean().backward()
            rate = RATE * min(1.0, (step + 1) / _WARMUP) * (1 + math.cos(math.pi * step / total)) / 2
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            step += 1
            with torch.no_grad():
                average.lerp_(half, 1 - min(AVERAGE, (1 + step) / (10 + step)))
        maps.append(_symmetric(average))
    return maps


def _symmetric(half: Tensor) -> Tensor:
    """Return the map `[D, D]`: the identity, `half` and its transpose."""
    return torch.eye(len(half), device=half.device) + half + half.T
