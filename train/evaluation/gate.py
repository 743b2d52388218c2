"""The gate that a trained model passes before anything is written: every way of computing it agrees.

A reference LSTM measured 0.57 on the device it was trained on and 0.41 when served elsewhere. Here the
training device, the CPU in float32 and the CPU in float64 have to agree on every row, at batch sizes 1, 7
and 256; and a run on a device first compares one step's loss and gradients with the CPU's.

n windows, T context length, D vector.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lvm_runtime.artifact.drift import DRIFT_LIMITS, FP32_ABSOLUTE_LIMIT, largest_difference, max_drift
from lvm_runtime.backends.devices import inference
from lvm_runtime.errors import VerificationFailed
from lvm_runtime.models import known_answers

from ..losses import row_losses

BATCH_SIZES = (1, 7, 256)
ROWS = 256
STEP_LIMIT = 1e-3
"""Largest relative difference of one step's loss, and of its gradients as a share of the whole gradient's length."""


@dataclass(frozen=True, slots=True)
class GateReading:
    """How far one device at one batch size is from float64 on the CPU."""

    device: str
    batch_size: int
    drift: float
    difference: float

    @property
    def passed(self) -> bool:
        """Whether every row is within the limits of float32."""
        return self.drift <= DRIFT_LIMITS["fp32"] and self.difference <= FP32_ABSOLUTE_LIMIT

    def __str__(self) -> str:
        return f"{self.device} batch {self.batch_size}: drift {self.drift:.1e}, difference {self.difference:.1e}"


def check_agreement(model: nn.Module, contexts: Tensor, device: str) -> list[GateReading]:
    """Compare `model` on `contexts` `[n, T, D]` between `device`, CPU float32 and CPU float64, per row.

    Raises VerificationFailed with the numbers of every reading that is over the limit.
    """
    host = contexts.detach().cpu().float()
    answers, _ = known_answers(model, host.numpy())
    readings = []
    for place in dict.fromkeys((device, "cpu")):
        copied = copy.deepcopy(model).to(place).eval()
        for size in BATCH_SIZES:
            with inference(torch.device(place).type, None):  # as it will be served: not in TF32
                parts = [copied(batch.to(place)).cpu() for batch in host.split(size)]
            predictions = torch.cat(parts).double().numpy()
            worst = largest_difference(predictions, answers)
            readings.append(GateReading(place, size, max_drift(predictions, answers), worst))
    failed = [reading for reading in readings if not reading.passed]
    if failed:
        raise VerificationFailed(
            f"the trained model does not compute the same everywhere: {'; '.join(map(str, failed))}; against float64 "
            f"on the CPU, expected drift ≤ {DRIFT_LIMITS['fp32']:.0e} and difference ≤ {FP32_ABSOLUTE_LIMIT:.0e}. "
            "No artifact was written; train with --device cpu"
        )
    return readings


@dataclass(frozen=True, slots=True)
class StepComparison:
    """Relative difference of one step's loss and of its gradients between a device and the CPU."""

    loss: float
    gradient: float

    def __str__(self) -> str:
        return f"loss {self.loss:.1e}, gradient {self.gradient:.1e} (relative)"


def compare_step(model: nn.Module, contexts: Tensor, targets: Tensor, device: str) -> StepComparison:
    """Compare the loss and gradients of a step on `contexts` `[b, T, D]` on `device` with the CPU's, dropout off.

    Raises VerificationFailed where they differ by more than `STEP_LIMIT`, relative to the CPU's.
    """
    here_loss, here = _gradients(model, contexts, targets, device)
    cpu_loss, reference = _gradients(model, contexts, targets, "cpu")
    length = torch.linalg.vector_norm(reference).clamp_min(1e-12)
    found = StepComparison(
        abs(here_loss - cpu_loss) / max(abs(cpu_loss), 1e-12),
        float(torch.linalg.vector_norm(here - reference) / length),
    )
    if not (found.loss <= STEP_LIMIT and found.gradient <= STEP_LIMIT):
        raise VerificationFailed(
            f"one training step on {device} differs from the CPU's: {found}, expected ≤ {STEP_LIMIT:.0e}; "
            "train with --device cpu"
        )
    return found


def _gradients(model: nn.Module, contexts: Tensor, targets: Tensor, device: str) -> tuple[float, Tensor]:
    copied = copy.deepcopy(model).to(device).train()  # cuDNN has no backward pass for recurrent layers in eval mode
    for module in copied.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    loss = row_losses("mse", copied(contexts.to(device)), targets.to(device), 1.0).mean()
    loss.backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in copied.parameters()]
    return loss.item(), torch.cat([g.detach().cpu().double().reshape(-1) for g in gradients])
