"""The architectures: name, title, hyperparameters, weights and cost of each, free of any framework.

A config is written into the artifact's manifest and rebuilt from it. An unknown key is an error; a field that an older
manifest does not have gets its default.

D = `dim`, T = `context_length`, H = `hidden_dim`, A = `attention_dim`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import chain
from typing import Any, ClassVar

from lvm_runtime.artifact.shapes import Shapes, linear, norm, recurrent
from lvm_runtime.errors import InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig(ABC):
    """What every architecture has: input and output vectors of size `dim`, contexts of `context_length` vectors.

    `architecture` is its name in commands and manifests, `title` its name in tables, `small` the fields of a model
    that tests can build in milliseconds; `attention` says whether it has attention weights to return, and
    `starts_at_average` whether a model with random weights predicts the linear average of its context.
    """

    architecture: ClassVar[str]
    title: ClassVar[str]
    small: ClassVar[Mapping[str, int]]
    attention: ClassVar[bool] = False
    starts_at_average: ClassVar[bool] = False

    dim: int = 768
    context_length: int = 5

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "dropout":
                if not (isinstance(value, int | float) and 0.0 <= value < 1.0):
                    raise InvalidInput(f"{self.architecture}: dropout is {value!r}, expected a number in [0, 1)")
            elif isinstance(field.default, bool):
                if value not in (True, False):
                    raise InvalidInput(f"{self.architecture}: {field.name} is {value!r}, expected true or false")
            elif not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidInput(f"{self.architecture}: {field.name} is {value!r}, expected a positive integer")

    @abstractmethod
    def multiply_adds(self) -> int:
        """Return the multiply-adds of one prediction by the training form; one is two floating-point operations.

        Matrix products only: normalisations and activations are a per mille of them.
        """

    @abstractmethod
    def weight_shapes(self) -> Shapes:
        """Yield the reference key and the shape of each weight, and of each buffer that is stored.

        >>> dict(LSTMConfig(dim=8, hidden_dim=4).weight_shapes())["output_proj.weight"]
        (8, 4)
        """

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class LSTMConfig(ModelConfig):
    """Stacked LSTM without input projection; `dropout` acts between the layers."""

    architecture: ClassVar[str] = "lstm"
    title: ClassVar[str] = "LSTM"
    small: ClassVar[Mapping[str, int]] = {"dim": 16, "hidden_dim": 8}

    hidden_dim: int = 512
    num_layers: int = 2
    dropout: float = 0.2

    def multiply_adds(self) -> int:
        """Count four gates per layer and step, and the output projection."""
        inputs = self.dim + (self.num_layers - 1) * self.hidden_dim
        layers = 4 * self.hidden_dim * (inputs + self.num_layers * self.hidden_dim)
        return self.context_length * layers + self.hidden_dim * self.dim

    def weight_shapes(self) -> Shapes:
        """Yield those of the layers, under the names of a batch-first `nn.LSTM`, and of the output projection."""
        hidden = self.hidden_dim
        for layer in range(self.num_layers):
            yield from recurrent("lstm", f"l{layer}", 4, hidden if layer else self.dim, hidden)
        yield from linear("output_proj", self.dim, hidden)


@dataclass(frozen=True, slots=True, kw_only=True)
class GRUConfig(ModelConfig):
    """Stack of residual GRU blocks; `dropout` acts on each GRU's output."""

    architecture: ClassVar[str] = "gru"
    title: ClassVar[str] = "GRU"
    small: ClassVar[Mapping[str, int]] = {"dim": 16, "hidden_dim": 8, "num_layers": 2}

    hidden_dim: int = 512
    num_layers: int = 4
    dropout: float = 0.0

    def multiply_adds(self) -> int:
        """Count the projections in and out, and three gates per block and step."""
        block = 3 * self.hidden_dim * 2 * self.hidden_dim
        projections = (self.context_length + 1) * self.dim * self.hidden_dim
        return projections + self.context_length * self.num_layers * block

    def weight_shapes(self) -> Shapes:
        """Yield those of the projections in and out, and of each block."""
        hidden = self.hidden_dim
        yield from linear("input_proj", hidden, self.dim)
        for block in range(self.num_layers):
            yield from recurrent(f"blocks.{block}.gru", "l0", 3, hidden, hidden)
            yield from norm(f"blocks.{block}.norm", hidden)
        yield from linear("output_proj", self.dim, hidden)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig(ModelConfig):
    """Post-norm decoder whose cross-attention reads its own projected input."""

    architecture: ClassVar[str] = "transformer"
    title: ClassVar[str] = "Transformer"
    small: ClassVar[Mapping[str, int]] = {"dim": 16, "hidden_dim": 8, "num_heads": 2, "ffn_dim": 16, "num_layers": 2}

    hidden_dim: int = 512
    num_layers: int = 4
    num_heads: int = 8
    ffn_dim: int = 2048
    dropout: float = 0.1
    max_positions: int = 100

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        if self.hidden_dim % self.num_heads or self.hidden_dim % 2:
            raise InvalidInput(
                f"transformer: hidden_dim {self.hidden_dim} must be even and a multiple of num_heads {self.num_heads}"
            )
        if self.context_length > self.max_positions:
            raise InvalidInput(
                f"transformer: context_length {self.context_length} exceeds max_positions {self.max_positions}"
            )

    def multiply_adds(self) -> int:
        """Count the input projection, two attentions and a feed-forward part per layer, and the head."""
        steps, hidden = self.context_length, self.hidden_dim
        attention = 4 * hidden * hidden * steps + 2 * steps * steps * hidden
        layer = 2 * attention + 2 * hidden * self.ffn_dim * steps
        return steps * self.dim * hidden + self.num_layers * layer + hidden * hidden + hidden * self.dim

    def weight_shapes(self) -> Shapes:
        """Yield those of the input projection, the positions, the decoder layers and the head."""
        hidden = self.hidden_dim
        yield from linear("input_proj", hidden, self.dim)
        yield "pos_encoder.pe", (1, self.max_positions, hidden)
        for layer in range(self.num_layers):
            name = f"transformer_decoder.layers.{layer}"
            for attention in ("self_attn", "multihead_attn"):
                yield f"{name}.{attention}.in_proj_weight", (3 * hidden, hidden)
                yield f"{name}.{attention}.in_proj_bias", (3 * hidden,)
                yield from linear(f"{name}.{attention}.out_proj", hidden, hidden)
            yield from linear(f"{name}.linear1", self.ffn_dim, hidden)
            yield from linear(f"{name}.linear2", hidden, self.ffn_dim)
            yield from chain.from_iterable(norm(f"{name}.norm{i}", hidden) for i in (1, 2, 3))
        yield from linear("head.0", hidden, hidden)
        yield from norm("head.2", hidden)
        yield from linear("head.3", self.dim, hidden)


@dataclass(frozen=True, slots=True, kw_only=True)
class AMNConfig(ModelConfig):
    """Attention Mixture Network: mean of the context plus a residual from one attention head and an MLP.

    `recency` adds a learned bias per position to the mean and to the attention, 2 · T numbers; the published AMN,
    which is blind to the order of its context, has none.
    """

    architecture: ClassVar[str] = "amn"
    title: ClassVar[str] = "AMN"
    small: ClassVar[Mapping[str, int]] = {"dim": 16, "attention_dim": 8, "hidden_dim": 12, "bottleneck_dim": 8}
    attention: ClassVar[bool] = True
    starts_at_average: ClassVar[bool] = True

    attention_dim: int = 256
    hidden_dim: int = 512
    bottleneck_dim: int = 256
    recency: bool = False

    def multiply_adds(self) -> int:
        """Count T keys and a query, T scores of A and the mixture of T vectors, and the residual network."""
        attention = (self.context_length + 1) * self.dim * self.attention_dim
        attention += self.context_length * (self.attention_dim + self.dim)
        bottleneck = self.bottleneck_dim * (self.hidden_dim + self.dim)
        return attention + 2 * self.dim * self.hidden_dim + bottleneck

    def weight_shapes(self) -> Shapes:
        """Yield those of both encoders, the residual network and, with recency, its 2 · T numbers."""
        yield from linear("context_encoder", self.attention_dim, self.dim)
        yield from linear("query_encoder", self.attention_dim, self.dim)
        yield from linear("residual_net.0", self.hidden_dim, 2 * self.dim)
        yield from norm("residual_net.2", self.hidden_dim)
        yield from linear("residual_net.3", self.bottleneck_dim, self.hidden_dim)
        yield from norm("residual_net.5", self.bottleneck_dim)
        yield from linear("residual_net.6", self.dim, self.bottleneck_dim)
        if self.recency:
            yield "mean_recency", (self.context_length,)
            yield "attention_recency", (self.context_length,)


CONFIGS: dict[str, type[ModelConfig]] = {
    cls.architecture: cls for cls in (LSTMConfig, GRUConfig, TransformerConfig, AMNConfig)
}
ARCHITECTURES: tuple[str, ...] = tuple(CONFIGS)


def make_config(architecture: str, /, **values: Any) -> ModelConfig:
    """Build the config of `architecture` from keyword values; defaults fill the rest.

    Raises InvalidInput for an unknown architecture or key.
    """
    cls = CONFIGS.get(architecture)
    if cls is None:
        raise InvalidInput(f"unknown architecture {architecture!r}; expected one of {', '.join(ARCHITECTURES)}")
    known = {field.name for field in fields(cls)}
    if unknown := sorted(set(values) - known):
        raise InvalidInput(f"{architecture}: unknown config key {unknown[0]!r}; known keys: {', '.join(sorted(known))}")
    return cls(**values)
