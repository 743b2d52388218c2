"""Start the LSTM, the GRU and the Transformer where the AMN starts by construction: at a baseline.

The linear average is hard to find from random weights. So it is put there:

1. The core is set to pass a weighted average of the context on. Recent vectors weigh most, and each unit stays where
   its activation is nearly linear.
2. The last layer is fitted by ridge regression of the targets on the core's output. The penalty draws it towards the
   layer that hands the average on, not towards zero. With little data that average stays; more data improves on it.

The decay of the weights and the penalty are chosen on training documents that the fit has not seen. Validation
documents are not touched.

n windows, T context length, D vector, H hidden.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lvm_runtime.errors import InvalidInput
from lvm_runtime.models.transformer import Transformer

from .data.holdout import hold_out
from .data.windows import WindowSet

DECAYS = (0.3, 0.45, 0.6, 0.75)
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Ridge penalties, as shares of the features' mean variance."""

NOISE = 0.1
"""What is left of the random weights under the structure, so that no two units stay alike."""

TRIAL_WINDOWS = 6_000  # to choose the decay
HELD_WINDOWS = 2_000  # to judge it and the penalty
FIT_WINDOWS = 80_000  # for the last layer
OPEN = 2.0  # bias of an open gate: it lets 0.88 pass
_BATCH = 256
_ALIKE = 1e-12
"""Variance, as a share of the mean square, that rounding leaves of what is the same in all windows."""


@dataclass(frozen=True, slots=True)
class WarmStart:
    """What was chosen, and its cosine on training documents that the fit had not seen."""

    decay: float
    penalty: float
    cosine: float

    def __str__(self) -> str:
        return (
            f"decay {self.decay:g} and penalty {self.penalty:g}, chosen on training documents kept out of the fit: "
            f"cosine {self.cosine:.4f} there"
        )


def start_at_baseline(model: nn.Module, windows: WindowSet, *, seed: int = 0) -> WarmStart | None:
    """Set the weights of `model`, which is on the windows' device, so that training starts at a linear fit.

    None for an AMN, which starts at the linear average by construction.
    """
    config: Any = model.config
    if config.starts_at_average:
        return None
    fit, held = hold_out(windows)
    vectors = projection(fit, config.hidden_dim, seed)
    random = {name: value.clone() for name, value in model.state_dict().items()}
    judged = held.sample(HELD_WINDOWS)

    def attempt(decay: float, count: int) -> tuple[WarmStart, _Moments]:
        model.load_state_dict(random)
        set_core(model, vectors, decay)
        moments = core_moments(model, fit.sample(count), decay)
        penalty, cosine = _best_penalty(model, moments, judged)
        return WarmStart(decay, penalty, cosine), moments

    decay = max((attempt(decay, TRIAL_WINDOWS)[0] for decay in DECAYS), key=lambda found: found.cosine).decay
    found, moments = attempt(decay, FIT_WINDOWS)
    set_last_layer(model, moments.plus(core_moments(model, judged, decay)).solve(found.penalty))
    return found


def projection(windows: WindowSet, width: int, seed: int) -> Tensor:
    """Return `[H, D]` that keeps angles (D ≤ H), or those of the H leading directions of the targets.

    A random rotation spreads the directions over the units, so that on unit vectors each unit has variance 1.
    """
    targets = windows.store.rows(windows.sample(FIT_WINDOWS).starts + windows.context_length).cpu().double()
    rank = min(width, targets.shape[1])
    directions = torch.linalg.eigh(targets.T @ targets).eigenvectors[:, -rank:]  # [D, rank]
    generator = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(width, rank, generator=generator, dtype=torch.float64))
    return (math.sqrt(width) * rotation @ directions.T).float().to(windows.starts.device)


@torch.no_grad()
def set_core(model: nn.Module, vectors: Tensor, decay: float) -> None:
    """Set all but the last layer to carry the average with `decay` of the context, seen through `vectors` `[H, D]`."""
    for module in model.modules():
        if not isinstance(module, nn.LayerNorm):
            for parameter in module.parameters(recurse=False):
                parameter.mul_(NOISE)
    config: Any = model.config
    setters: dict[str, Callable[..., None]] = {"lstm": _set_lstm, "gru": _set_gru, "transformer": _set_transformer}
    setters[config.architecture](model, vectors, decay)


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


def _set_lstm(model: Any, vectors: Tensor, decay: float) -> None:
    """Let layer 0 average in its cell state, gates constant, and the layers above pass on what they get."""
    for layer in range(model.config.num_layers):
        weight, _, bias, _ = model.lstm.layer_weights(layer)
        _, _, candidate, _ = weight.chunk(4)
        into, forget, _, out = bias.chunk(4)
        into += OPEN
        out += OPEN
        if layer == 0:
            candidate += 0.5 * (1 - decay) * vectors  # a cell state of about 0.3 per unit, where tanh is straight
            forget += _logit(decay)
        else:
            candidate += 1.5 * torch.eye(len(candidate), device=candidate.device)
            forget += _logit(0.1)


def _set_gru(model: Any, vectors: Tensor, decay: float) -> None:
    """Let the first block average, large beside the last vector that its residual path carries."""
    gain = 16.0
    model.input_proj.weight += 0.4 / gain * vectors  # 0.4 per unit in the first block's tanh
    first = model.blocks[0].gru
    _, keep, _ = first.bias_ih_l0.chunk(3)
    _, _, candidate = first.weight_ih_l0.chunk(3)
    keep += _logit(decay)
    candidate += gain * torch.eye(len(candidate), device=candidate.device)


def _set_transformer(model: Any, vectors: Tensor, decay: float) -> None:
    """Let the first self-attention add its even mean to the last vector, older ones weighing `decay` of the last."""
    eye = torch.eye(model.config.hidden_dim, device=vectors.device)
    model.input_proj.weight += 2 * vectors  # over the position table, which has 0.7 per unit
    attention = model.transformer_decoder.layers[0].self_attn
    _, _, values = attention.in_proj_weight.chunk(3)
    values += eye
    attention.out_proj.weight += model.config.context_length * decay / (1 - decay) * eye
    model.head[0].weight += eye
    model.head[0].bias += 3.0  # where GELU is nearly straight


@dataclass(frozen=True, slots=True)
class _Moments:
    """Sums over windows of products of the features (with a one appended, so H+1 of them), in float64."""

    own: Tensor  # [H+1, H+1] with themselves
    average: Tensor  # [H+1, D] with the weighted average of the context
    target: Tensor  # [H+1, D] with the target

    def plus(self, other: _Moments) -> _Moments:
        return _Moments(self.own + other.own, self.average + other.average, self.target + other.target)

    def solve(self, penalty: float) -> Tensor:
        """Return `[H+1, D]`, the ridge solution drawn towards the average times the best single factor."""
        passing = self.passing()
        sums, count = self.own[-1], self.own[-1, -1]
        own = self.own - sums[:, None] * sums / count  # moments of deviations from the mean, here and for the target
        target = self.target - sums[:, None] * self.target[-1] / count
        factor = (passing * target).sum() / (passing * (own @ passing)).sum()
        return self._ridge(penalty, self.target, factor * passing)

    def passing(self) -> Tensor:
        """Return `[H+1, D]`, the last layer that hands the weighted average on."""
        return self._ridge(1e-4, self.average, torch.zeros_like(self.average))

    def _ridge(self, penalty: float, cross: Tensor, prior: Tensor) -> Tensor:
        """Return W of least ‖Y − F W‖² + penalty · variance · ‖W − prior‖²; the constant's row is free."""
        variance = (self.own.diagonal() - self.own[-1].square() / self.own[-1, -1])[:-1].mean()
        if variance <= _ALIKE * self.own.diagonal()[:-1].mean():
            raise InvalidInput(
                "the training windows all hold the same vectors, to which no start can be fitted; look at them with "
                "`lvm-runtime diagnose`, or give --start default"
            )
        weights = torch.full_like(self.own[-1], float(penalty * variance))
        weights[-1] = 0
        return torch.linalg.solve(self.own + weights.diag(), cross + weights[:, None] * prior)


@torch.no_grad()
def core_moments(model: nn.Module, windows: WindowSet, decay: float) -> _Moments:
    """Return the moments of what the last layer sees on `windows`, with the average and with the targets."""
    layer = _last_layer(model)
    size, dim = layer.in_features + 1, layer.out_features
    sums = _Moments(*(torch.zeros(size, columns, dtype=torch.float64) for columns in (size, dim, dim)))
    ages = torch.arange(windows.context_length - 1, -1, -1, dtype=torch.float64)
    weights = decay ** (ages.clamp(max=1) if isinstance(model, Transformer) else ages)
    weights /= weights.sum()
    for starts in windows.batches(_BATCH):
        contexts, targets = windows.batch(starts)
        features = last_layer_features(model, contexts)
        sums.own.addmm_(features.T, features)
        sums.average.addmm_(features.T, torch.einsum("btd,t->bd", contexts.cpu().double(), weights))
        sums.target.addmm_(features.T, F.normalize(targets, dim=1).cpu().double())
    return sums


def last_layer_features(model: nn.Module, contexts: Tensor) -> Tensor:
    """Return what the last layer sees, and a one, on the CPU in float64 `[b, H+1]`."""
    seen: list[Tensor] = []
    hook = _last_layer(model).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model.eval()(contexts)
    hook.remove()
    return F.pad(seen[0].cpu().double(), (0, 1), value=1.0)


def _best_penalty(model: nn.Module, moments: _Moments, held: WindowSet) -> tuple[float, float]:
    """Return the penalty with the best mean cosine on `held`, and that cosine."""
    contexts, targets = held.batch(held.starts)
    with torch.no_grad():
        features = torch.cat([last_layer_features(model, batch) for batch in contexts.split(_BATCH)])
    targets = targets.cpu().double()
    cosines = {p: float(F.cosine_similarity(features @ moments.solve(p), targets).mean()) for p in PENALTIES}
    best = max(cosines, key=lambda penalty: cosines[penalty])
    return best, cosines[best]


def _last_layer(model: Any) -> nn.Linear:
    layer = model.head[3] if isinstance(model, Transformer) else model.output_proj
    assert isinstance(layer, nn.Linear)
    return layer


@torch.no_grad()
def set_last_layer(model: nn.Module, solution: Tensor) -> None:
    """Set the last layer to `solution` `[H+1, D]`, whose last row is its bias."""
    layer = _last_layer(model)
    layer.weight.copy_(solution[:-1].T)
    layer.bias.copy_(solution[-1])
