"""The Core ML forms are the training forms, in float64 and with every parameter random."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from export.coreml.forms import coreml_form
from export.coreml.forms.layers import ChannelNorm, unit
from lvm_runtime.artifact.config import ARCHITECTURES, CONFIGS
from tests.artifacts import randomised

LIMIT = 1e-10
SHAPES = {"usual": (32, 5), "one step": (32, 1), "longer": (24, 7)}


def small_model(architecture: str, dim: int = 32, length: int = 5) -> nn.Module:
    """Return a small training form with every parameter random."""
    return randomised(architecture, **CONFIGS[architecture].small | {"dim": dim, "context_length": length})


@pytest.mark.parametrize("gelu", ["table", "erf"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_form_equals_the_training_form(architecture: str, shape: tuple[int, int], scale: float, gelu: str) -> None:
    dim, length = shape
    model = small_model(architecture, dim, length).double()
    contexts = torch.randn(7, length, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * scale
    with torch.no_grad():
        answer = coreml_form(model, gelu=gelu)(contexts)
        if architecture == "amn":
            expected, attention = model.forward_with_attention(contexts)  # type: ignore[operator]
            assert (answer[1] - attention).abs().max() <= LIMIT
            answer = answer[0]
        else:
            expected = model(contexts)
    assert (answer - expected).abs().max() <= LIMIT


def test_single_layers_are_exact_too() -> None:
    for architecture in ("lstm", "gru", "transformer"):
        model = randomised(architecture, **CONFIGS[architecture].small | {"dim": 32, "num_layers": 1}).double()
        contexts = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        with torch.no_grad():
            assert (coreml_form(model)(contexts) - model(contexts)).abs().max() <= LIMIT


def test_norm_keeps_the_shift_where_the_scale_is_zero() -> None:
    norm = nn.LayerNorm(8).double()
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1.0, 1.0, 8))
        norm.weight[3] = 0.0
        norm.bias.copy_(torch.linspace(2.0, 3.0, 8))
    x = torch.randn(2, 8, 1, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert (ChannelNorm(norm)(x) - expected).abs().max() <= LIMIT


@pytest.mark.parametrize("magnitude", [1e-3, 1.0, 300.0, 3e4], ids=lambda m: f"{m:g}")
def test_unit_survives_fp16(magnitude: float) -> None:
    y = np.random.default_rng(4).uniform(-magnitude, magnitude, 768).astype(np.float16)
    half = unit(torch.from_numpy(y)[None, :, None, None]).squeeze().float().numpy()
    expected = y.astype(np.float64) / np.linalg.norm(y.astype(np.float64))
    np.testing.assert_allclose(half, expected, atol=2e-4)


def test_unit_leaves_zeros_at_zero() -> None:
    assert torch.equal(unit(torch.zeros(1, 8, 1, 1, dtype=torch.float16)), torch.zeros(1, 8, 1, 1, dtype=torch.float16))
