"""The gate passes honest models and stops those that compute something else elsewhere."""

from __future__ import annotations

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
