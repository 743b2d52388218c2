"""Configs refuse what cannot be a model, and know what a prediction costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lvm_runtime.artifact.config import ARCHITECTURES, CONFIGS, AMNConfig, make_config
from lvm_runtime.errors import InvalidInput
from lvm_runtime.models import build_model

MULTIPLY_ADDS = {"lstm": 23_986_176, "gru": 33_816_576, "transformer": 86_712_320, "amn": 2_298_880}
"""At full size, D = 768 and T = 5; worked out by hand."""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_config_is_rebuilt_from_its_values(architecture: str) -> None:
    config = make_config(architecture, dim=384, context_length=7)
    assert make_config(architecture, **config.to_dict()) == config
    assert (config.dim, config.context_length) == (384, 7)


@pytest.mark.parametrize(
    ("architecture", "values", "message"),
    [
        ("rnn", {}, "unknown architecture 'rnn'; expected one of lstm, gru, transformer, amn"),
        ("amn", {"dimension": 3}, "unknown config key 'dimension'; known keys"),
        ("amn", {"dim": 0}, "dim is 0, expected a positive integer"),
        ("amn", {"dim": 768.0}, "dim is 768.0"),
        ("gru", {"num_layers": True}, "num_layers is True"),
        ("lstm", {"dropout": 1.0}, r"dropout is 1.0, expected a number in \[0, 1\)"),
        ("transformer", {"num_heads": 7}, "multiple of num_heads 7"),
        ("transformer", {"context_length": 101}, "exceeds max_positions 100"),
    ],
    ids=["architecture", "key", "zero", "float", "bool", "dropout", "heads", "positions"],
)
def test_a_wrong_value_is_an_error_that_names_it(architecture: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        make_config(architecture, **values)


def test_a_transformer_has_a_position_for_each_vector_up_to_the_last() -> None:
    assert make_config("transformer", context_length=100).context_length == 100


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        AMNConfig().dim = 3  # type: ignore[misc]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_multiply_adds_at_full_size(architecture: str) -> None:
    assert make_config(architecture).multiply_adds() == MULTIPLY_ADDS[architecture]


@pytest.mark.parametrize("architecture", ["transformer", "amn"])  # the counter does not see into recurrent layers
@pytest.mark.parametrize("length", [1, 5])
def test_multiply_adds_are_what_pytorch_counts(architecture: str, length: int) -> None:
    config = make_config(architecture, context_length=length)
    model = build_model(config, seed=0).train()  # eval mode takes a fused path that the counter does not see into
    counter = FlopCounterMode(display=False)
    with counter:
        model(torch.ones(1, config.context_length, config.dim))
    # the counter sees the products but for the few that PyTorch's attention fuses
    assert counter.get_total_flops() / 2 == pytest.approx(config.multiply_adds(), rel=0.005)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_small_model_is_small(architecture: str) -> None:
    config = make_config(architecture, **CONFIGS[architecture].small)
    assert config.multiply_adds() < make_config(architecture).multiply_adds() / 500
