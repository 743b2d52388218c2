"""Deployment forms: equal to the training form to 1e-12 in float64, and as cheap as promised."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from export.forms import build_form, multiply_adds
from export.forms.ops import CountingOps, TorchOps
from lvm_runtime.artifact.config import ARCHITECTURES, make_config
from lvm_runtime.models import build_model, known_answers
from tests.artifacts import randomised

NARROW: dict[str, dict[str, Any]] = {
    "lstm": {"dim": 12, "hidden_dim": 8},
    "gru": {"dim": 12, "hidden_dim": 8},
    "transformer": {"dim": 12, "hidden_dim": 8, "num_heads": 2, "ffn_dim": 20},
    "amn": {"dim": 12, "hidden_dim": 10, "attention_dim": 6, "bottleneck_dim": 7},
}
OTHER: dict[str, dict[str, Any]] = {
    "lstm": {"dim": 9, "hidden_dim": 14, "num_layers": 3},
    "gru": {"dim": 21, "hidden_dim": 6, "num_layers": 2},
    "transformer": {"dim": 7, "hidden_dim": 12, "num_heads": 3, "ffn_dim": 8, "num_layers": 2},
    "amn": {"dim": 5, "hidden_dim": 4, "attention_dim": 9, "bottleneck_dim": 16},
}
SINGLE: dict[str, dict[str, Any]] = {
    "lstm": {"dim": 6, "hidden_dim": 4, "num_layers": 1},
    "gru": {"dim": 6, "hidden_dim": 4, "num_layers": 1},
    "transformer": {"dim": 6, "hidden_dim": 4, "num_heads": 1, "ffn_dim": 4, "num_layers": 1},
    "amn": {"dim": 1, "hidden_dim": 2, "attention_dim": 1, "bottleneck_dim": 1},
}
WIDTHS = {"narrow": NARROW, "other": OTHER, "single": SINGLE}

PLAIN_AND_REWRITTEN = {  # million multiply-adds at D=768, T=5
    "amn": (2.29, 1.51),
    "lstm": (24.0, 21.9),
    "gru": (33.8, 30.7),
    "transformer": (86.6, 74.0),
}


def first(outputs: Any) -> torch.Tensor:
    """Return the prediction, whether attention comes with it or not."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


def random_input(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("length", range(1, 9))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_form_equals_training_form(architecture: str, length: int, widths: str) -> None:
    model = randomised(architecture, seed=3, **WIDTHS[widths][architecture], context_length=length)
    contexts = random_input(4, length, model.config.dim)  # type: ignore[union-attr,arg-type]
    expected, attention = known_answers(model, contexts.numpy())
    outputs = build_form(model)(contexts)
    if attention is not None:
        outputs, weights = outputs
        assert abs(weights.numpy() - attention).max() <= 1e-12
    assert abs(outputs.numpy() - expected).max() <= 1e-12


@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sequence_form_equals_windows(architecture: str, length: int) -> None:
    form = build_form(randomised(architecture, seed=3, **NARROW[architecture], context_length=length))
    vectors = random_input(11, 12)
    outputs = form.sequence(TorchOps(), vectors)
    windows = vectors.unfold(0, length, 1).transpose(1, 2)  # [N-T+1, T, D]
    expected = form.contexts(TorchOps(), windows)
    for got, wanted in zip(outputs, expected, strict=True):
        assert (got - wanted).abs().max() <= 1e-12


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_parameter_matters(architecture: str) -> None:
    """A form that left a parameter out could not follow when it changes; key biases alone drop out of the softmax."""
    deep = {} if architecture == "amn" else {"num_layers": 2}
    model = randomised(architecture, seed=3, **NARROW[architecture], **deep)
    contexts = random_input(2, 5, 12)
    before = first(build_form(model)(contexts))
    for name, parameter in model.named_parameters():
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.add_(0.5 * torch.randn(parameter.shape))
        after = first(build_form(model)(contexts))
        expected = known_answers(model, contexts.numpy())[0]
        with torch.no_grad():
            parameter.copy_(kept)
        assert abs(after.numpy() - expected).max() <= 1e-12, name
        assert name == "context_encoder.bias" or (after - before).abs().max() > 1e-6, name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_multiply_adds_are_those_promised(architecture: str) -> None:
    form = build_form(build_model(make_config(architecture), seed=0))
    count = multiply_adds(form) / 1e6
    plain, rewritten = PLAIN_AND_REWRITTEN[architecture]
    assert count == pytest.approx(rewritten, rel=0.01)
    assert count < 0.92 * plain


@pytest.mark.parametrize(("architecture", "factor"), [("lstm", 1.35), ("gru", 1.15), ("transformer", 1.15), ("amn", 1)])
def test_sequence_form_shares_work_between_windows(architecture: str, factor: float) -> None:
    form = build_form(build_model(make_config(architecture), seed=0))
    ops, windows = CountingOps(), 200
    form.sequence(ops, torch.zeros(windows + form.length - 1, form.config.dim, dtype=torch.float64))
    assert factor * ops.multiply_adds / windows <= multiply_adds(form)
