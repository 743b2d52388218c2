"""The gate passes honest models and stops those that compute something else elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lvm_runtime.artifact.config import ARCHITECTURES
from lvm_runtime.errors import VerificationFailed
from tests.artifacts import randomised
from train.evaluation.gate import BATCH_SIZES, check_agreement, compare_step


def contexts(n: int = 300) -> torch.Tensor:
    """Return random contexts `[n, 5, 16]`."""
    return torch.randn(n, 5, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_honest_models_pass(architecture: str) -> None:
    readings = check_agreement(randomised(architecture), contexts(), "cpu")
    assert [r.batch_size for r in readings] == list(BATCH_SIZES)
    assert max(r.difference for r in readings) < 2e-6


class DropsOut(nn.Module):
    """Still drops values when it is judged: what `nn.LSTM` did on MPS."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = randomised("amn")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return predictions with a dropout that ignores eval mode."""
        return self.inner(nn.functional.dropout(x, 0.2, training=True))


class SeesBatch(DropsOut):
    """Its answer to a row depends on the batch size."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return predictions that shift with the number of rows."""
        return self.inner(x + 1e-3 * len(x))


@pytest.mark.parametrize("wrong", [DropsOut, SeesBatch])
def test_wrong_models_are_stopped_with_numbers(wrong: type[DropsOut]) -> None:
    with pytest.raises(VerificationFailed, match=r"batch 7: drift \d\.\de[-+]\d\d"):
        check_agreement(wrong(), contexts(40), "cpu")


class Scaled(DropsOut):
    """Points where it should, at another length in float32: no drift, and every component is off."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return predictions, of length 1.001 in float32."""
        return self.inner(x) * (1.001 if x.dtype == torch.float32 else 1.0)


class Turned(DropsOut):
    """Turned by the angle of a drift of 1.5e-6, spread over so many components that each is within its limit."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return predictions `[b, 16 + 20,000]`."""
        sign = 1.0 if x.dtype == torch.float64 else -1.0
        tail = torch.full((len(x), 20_000), sign * (0.75e-6 / 20_000) ** 0.5, dtype=x.dtype)
        return torch.cat([self.inner(x), tail], dim=1)


@pytest.mark.parametrize("wrong", [Scaled, Turned])
def test_drift_and_components_are_judged_each_by_itself(wrong: type[DropsOut]) -> None:
    with pytest.raises(VerificationFailed) as failure:
        check_agreement(wrong(), contexts(40), "cpu")
    drift, difference = (float(str(failure.value).split(f"{word} ")[1][:7]) for word in ("drift", "difference"))
    assert (drift <= 1e-6, difference <= 2e-5) == ((True, False) if wrong is Scaled else (False, True))


def stay(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let models and tensors stay where they are, and return where they were sent."""
    placed: list[str] = []
    for kind in (nn.Module, torch.Tensor):
        monkeypatch.setattr(kind, "to", lambda self, place: (placed.append(place), self)[1])
    return placed


def test_both_devices_are_judged_at_every_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training device by name alone, since there is none here; in the precision that serves, whatever trained."""
    placed = stay(monkeypatch)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    model, tf32 = randomised("amn"), []
    model.register_forward_pre_hook(lambda module, given: tf32.append(torch.backends.cudnn.allow_tf32))
    readings = check_agreement(model, contexts(9), "cuda")
    assert [(r.device, r.batch_size) for r in readings] == [
        (place, size) for place in ("cuda", "cpu") for size in BATCH_SIZES
    ]
    assert placed == ["cuda"] * 13 + ["cpu"] * 13, "the model and its batches"
    assert tf32[:12] == [False] * 12, "nine batches of 1, two of 7 and one of 256 on the device"


class _Faulty(torch.autograd.Function):
    """Adds `shift` on the way forward and scales the gradient by `factor` on the way back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, shift: float, factor: float) -> torch.Tensor:
        """Return x + shift."""
        ctx.shift, ctx.factor = shift, factor
        return x + shift

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradient of the unshifted squared error, times the factor."""
        return (outer[0] - 2 * ctx.shift / outer[0].numel()) * ctx.factor, None, None


class FirstTimeFaulty(nn.Module):
    """A model whose first step (the device's) has another loss or other gradients than its second (the CPU's)."""

    def __init__(self, shift: float, factor: float) -> None:
        super().__init__()
        self.inner = randomised("amn")
        self.unused = nn.Parameter(torch.ones(3))  # it gets no gradient
        self.faults = (shift, factor)
        self.runs: list[int] = []

    def __deepcopy__(self, memo: Any) -> FirstTimeFaulty:
        """Return a copy that shares the count of runs."""
        copied = FirstTimeFaulty(*self.faults)
        copied.runs = self.runs
        return copied

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return predictions, wrong ones the first time."""
        self.runs.append(len(x))
        return _Faulty.apply(self.inner(x), *self.faults) if len(self.runs) == 1 else self.inner(x)


@pytest.mark.parametrize(("shift", "factor"), [(0.05, 1.0), (0.0, 1.01)], ids=["loss", "gradient"])
def test_a_step_whose_loss_or_gradient_is_off_is_stopped(
    monkeypatch: pytest.MonkeyPatch, shift: float, factor: float
) -> None:
    targets = nn.functional.normalize(contexts(32)[:, 0], dim=1)
    with pytest.raises(VerificationFailed, match="one training step on cpu differs"):
        compare_step(FirstTimeFaulty(shift, factor), contexts(32), targets, "cpu")
    monkeypatch.setattr("train.evaluation.gate.STEP_LIMIT", 0.5)
    found = compare_step(FirstTimeFaulty(shift, factor), contexts(32), targets, "cpu")
    off = randomised("amn")(contexts(32)).detach() - targets
    moved = float((off + shift).square().mean() / off.square().mean() - 1)
    assert (found.loss, found.gradient) == pytest.approx((abs(moved), factor - 1), rel=1e-3, abs=1e-6), "shares of each"


def test_the_gate_leaves_the_model_as_it_is() -> None:
    model = randomised("amn").train()
    check_agreement(model, contexts(4), "cpu")
    assert all(module.training for module in model.modules())


def test_a_step_is_taken_on_the_device_and_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    placed = stay(monkeypatch)
    compare_step(randomised("amn"), contexts(4), contexts(4)[:, 0], "cuda")
    assert placed == ["cuda"] * 3 + ["cpu"] * 3, "the model, its contexts and its targets"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_step_comparison_ignores_dropout(architecture: str) -> None:
    model = randomised(architecture)
    targets = torch.nn.functional.normalize(contexts(32)[:, 0], dim=1)
    found = compare_step(model, contexts(32), targets, "cpu")
    assert found.loss == found.gradient == 0.0
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("device", [pytest.param(d, marks=getattr(pytest.mark, d)) for d in ("mps", "cuda")])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_step_and_predictions_on_a_device(architecture: str, device: str) -> None:
    model = randomised(architecture)
    compare_step(model, contexts(32), torch.nn.functional.normalize(contexts(32)[:, 0], dim=1), device)
    check_agreement(model, contexts(), device)
