"""The gate passes honest models and stops those that compute something else elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lvm_runtime.artifact.config import ARCHITECTURES, make_config
from lvm_runtime.errors import VerificationFailed
from lvm_runtime.models import build_model
from train.evaluation.gate import BATCH_SIZES, check_agreement, compare_step

SIZES = {"lstm": {"dropout": 0.5}, "gru": {"num_layers": 2}, "transformer": {"num_layers": 1, "ffn_dim": 32}, "amn": {}}


def small(architecture: str) -> nn.Module:
    """Return a small model whose every parameter is random."""
    model = build_model(make_config(architecture, dim=12, hidden_dim=16, **SIZES[architecture]), seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def contexts(n: int = 300) -> torch.Tensor:
    """Return random contexts `[n, 5, 12]`."""
    return torch.randn(n, 5, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_honest_models_pass(architecture: str) -> None:
    readings = check_agreement(small(architecture), contexts(), "cpu")
    assert [r.batch_size for r in readings] == list(BATCH_SIZES)
    assert max(r.difference for r in readings) < 2e-6


class DropsOut(nn.Module):
    """Still drops values when it is judged: what `nn.LSTM` did on MPS."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small("amn")

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
    model = small(architecture)
    targets = torch.nn.functional.normalize(contexts(32)[:, 0], dim=1)
    found = compare_step(model, contexts(32), targets, "cpu")
    assert found.loss == found.gradient == 0.0
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("device", [pytest.param(d, marks=getattr(pytest.mark, d)) for d in ("mps", "cuda")])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_step_and_predictions_on_a_device(architecture: str, device: str) -> None:
    model = small(architecture)
    compare_step(model, contexts(32), torch.nn.functional.normalize(contexts(32)[:, 0], dim=1), device)
    check_agreement(model, contexts(), device)
