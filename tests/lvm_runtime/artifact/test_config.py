"""Configs refuse what cannot be a model."""

from __future__ import annotations

from typing import Any

import pytest

from lvm_runtime.artifact.config import ARCHITECTURES, AMNConfig, make_config
from lvm_runtime.errors import InvalidInput


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


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        AMNConfig().dim = 3  # type: ignore[misc]
