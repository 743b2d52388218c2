"""The training loop: gather a batch on the device, step, and never wait for the device in between.

Losses go into a buffer on the device and are looked at every `INTERVAL` steps and before each checkpoint,
for the progress bar, for NaN and for a request to stop. The order of an epoch depends on the seed and the
epoch alone, so a run can be taken up in the middle of one.

Every window of an epoch has the same weight: the loss of the last, short batch is scaled by its size. A full
step for one window, just before the epoch is judged, cost an LSTM 0.007 in validation cosine.

b batch, n windows, T context length, D vector.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lvm_runtime.errors import LvmError

from .data.windows import WindowSet
from .distributed import Processes
from .forward import training_form
from .losses import row_losses
from .options import TrainOptions
from .ranking import CorpusRanking

INTERVAL = 50
WARMUP_STEPS = 200  # of the cosine schedule

Watch = Callable[[int, int], None]


class TrainingDiverged(LvmError):
    """The loss became NaN or infinite."""


class Trainer:
    """A model with its optimizer and its place in the run: `epoch`, and `step` within it."""

    def __init__(self, model: nn.Module, windows: WindowSet, options: TrainOptions, processes: Processes) -> None:
        self.device = windows.starts.device
        self.model = model.to(self.device)
        self.windows = windows
        self.options = options
        self.processes = processes
        host = self.device.type == "cpu" and options.precision == "fp32" and not options.compile
        self.forward = processes.wrap(training_form(self.model, host=host))
        self.ranking: CorpusRanking | None = None
        if options.loss == "ranking":
            self.ranking = CorpusRanking(windows, options.temperature, options.candidates, options.seed)
        self.loss: Any = torch.compile(self._loss) if options.compile else self._loss
        self.average: nn.Module | None = None
        if options.ema:  # the copy has to be moved to be laid out for cuDNN too
            self.average = copy.deepcopy(self.model).requires_grad_(False).to(self.device)
        self._parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(
            self._parameters, lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
        )
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(self.optimizer, mode="max", factor=0.5, patience=3)
        self.epoch = self.step = 0
        self.steps = math.ceil(len(windows) / options.batch_size)
        self.full = min(options.batch_size, len(windows))
        self.losses = torch.zeros(self.steps, device=self.device)

    @property
    def evaluated(self) -> nn.Module:
        """The module to judge and to keep: the running average of the weights if there is one."""
        return self.model if self.average is None else self.average

    @property
    def learning_rate(self) -> float:
        """The rate of the latest step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def restart_average(self) -> None:
        """Let the running average begin at the weights as they are now."""
        if self.average is not None:
            self.average.load_state_dict(self.model.state_dict())

    def train_epoch(self, watch: Watch = lambda step, windows: None) -> float:
        """Train from `step` to the end of the epoch and return the mean loss of its windows.

        `watch(step, windows)` is called every `INTERVAL` steps, every `checkpoint_every` and at the end, with the
        number of windows seen since its last call; it may raise to stop. Raises TrainingDiverged with the step and the
        batch.
        """
        every = self.options.checkpoint_every or self.steps
        order = self._order()
        self.model.train()
        seen = 0
        checked = self.step
        while self.step < self.steps:
            batch = order[self.step * self.options.batch_size : (self.step + 1) * self.options.batch_size]
            self._step(batch)
            self.step += 1
            seen += len(batch)
            if self.step % INTERVAL == 0 or self.step % every == 0 or self.step == self.steps:
                self._check(checked, order)
                watch(self.step, seen)
                checked, seen = self.step, 0
        self.epoch, self.step = self.epoch + 1, 0
        return float(self.processes.mean(self.losses).cpu().double().sum()) * self.full / len(order)

    def end_epoch(self, judged: float) -> None:
        """Tell the schedule how the epoch went: the metric that epochs are judged by."""
        if self.options.schedule == "plateau":
            self.plateau.step(judged)

    def _order(self) -> Tensor:
        """Return the starts of this epoch's windows in its order `[n]`, on the device."""
        generator = torch.Generator().manual_seed(self.options.seed * 1_000_003 + self.epoch)
        return self.windows.starts[torch.randperm(len(self.windows), generator=generator).to(self.device)]

    def _step(self, batch: Tensor) -> None:
        options = self.options
        starts, weight = self.processes.share(batch)
        weight *= len(batch) / self.full
        contexts, targets = self.windows.batch(starts)
        if options.input_noise:
            contexts = contexts + torch.randn_like(contexts) * (options.input_noise / contexts.shape[2] ** 0.5)
        if options.vector_dropout:
            kept = torch.rand(contexts.shape[:2], device=self.device) >= options.vector_dropout  # [b, T]
            kept |= ~kept.any(dim=1, keepdim=True)  # of nothing at all an AMN's gradient is 10¹¹ times that of the rest
            contexts = contexts * kept.unsqueeze(2)
        loss = self.loss(contexts, targets, starts)
        if weight != 1.0:
            loss = loss * weight
        loss.backward()
        self._clip()
        if options.schedule == "cosine":
            for group in self.optimizer.param_groups:
                group["lr"] = self.cosine_rate(self.epoch * self.steps + self.step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses[self.step] = loss.detach()
        if self.average is not None:
            self._update_average()

    def _clip(self) -> None:
        """Shorten the gradient to `grad_clip`; on the CPU, where looking is free, only if it is longer."""
        norm = torch.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        if self.device.type == "cpu" and norm + 1e-6 <= self.options.grad_clip:
            return  # clip_grad_norm_ would multiply all of it by one
        torch.nn.utils.clip_grads_with_norm_(self._parameters, self.options.grad_clip, norm)

    def _loss(self, contexts: Tensor, targets: Tensor, starts: Tensor) -> Tensor:
        """Return the mean loss of a batch; forward pass and loss are compiled as one."""
        options = self.options
        with autocast(options.precision, self.device):
            predictions = self.forward(contexts)
        if self.ranking is None:
            losses = row_losses(options.loss, predictions, targets, options.temperature)
        else:
            losses = self.ranking(predictions, starts, targets, self.epoch * self.steps + self.step)
        if options.cosine_weight:
            losses = losses + options.cosine_weight * (1 - F.cosine_similarity(predictions.float(), targets, dim=1))
        return losses.mean()

    @property
    def highest_rate(self) -> float:
        """The highest rate of the run; where a cosine falls before the warm-up is over, less than was asked for."""
        if self.options.schedule != "cosine":
            return self.options.learning_rate
        return max(map(self.cosine_rate, range(min(WARMUP_STEPS, self.options.epochs * self.steps))))

    def cosine_rate(self, step: int) -> float:
        """Return the rate of a step of the run: a linear warm-up times half a cosine, zero at the end of the run."""
        share = min(1.0, step / (self.options.epochs * self.steps))
        return self.options.learning_rate * min(1.0, (step + 1) / WARMUP_STEPS) * (1 + math.cos(math.pi * share)) / 2

    @torch.no_grad()
    def _update_average(self) -> None:
        """Move the average towards the weights; early on faster, so that the start is forgotten."""
        assert self.average is not None
        now = self.epoch * self.steps + self.step
        decay = min(self.options.ema, (1 + now) / (10 + now))
        for kept, current in zip(self.average.parameters(), self._parameters, strict=True):
            kept.lerp_(current, 1 - decay)

    def _check(self, begin: int, order: Tensor) -> None:
        """Raise TrainingDiverged if a loss since step `begin` is not finite: the one look at the device."""
        finite = torch.isfinite(self.losses[begin : self.step]).cpu()
        if bool(finite.all()):
            return
        step = begin + int((~finite).nonzero()[0])
        size = self.options.batch_size
        rows = order[step * size : (step + 1) * size][:4].tolist()
        raise TrainingDiverged(
            f"the loss became {self.losses[step].item()} in epoch {self.epoch + 1} at step {step + 1} of {self.steps}; "
            f"its batch is windows {step * size} to {step * size + size - 1} of that epoch's order "
            f"(corpus rows {', '.join(map(str, rows))}, …)"
        )


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which the forward pass runs in `precision` (weights stay float32)."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
