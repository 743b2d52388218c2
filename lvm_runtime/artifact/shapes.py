"""Names and shapes of the weights of PyTorch's layers, from which a config lists the weights of its model."""

from __future__ import annotations

from collections.abc import Iterator

Shape = tuple[int, ...]
Shapes = Iterator[tuple[str, Shape]]


def linear(name: str, width: int, inputs: int) -> Shapes:
    """Yield name and shape of each weight of an `nn.Linear(inputs, width)`."""
    yield f"{name}.weight", (width, inputs)
    yield f"{name}.bias", (width,)


def norm(name: str, width: int) -> Shapes:
    """Yield name and shape of each weight of an `nn.LayerNorm(width)`."""
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def recurrent(name: str, suffix: str, gates: int, inputs: int, hidden: int) -> Shapes:
    """Yield name and shape of each weight of one layer of an `nn.LSTM` (four gates) or an `nn.GRU` (three)."""
    yield f"{name}.weight_ih_{suffix}", (gates * hidden, inputs)
    yield f"{name}.weight_hh_{suffix}", (gates * hidden, hidden)
    yield f"{name}.bias_ih_{suffix}", (gates * hidden,)
    yield f"{name}.bias_hh_{suffix}", (gates * hidden,)
