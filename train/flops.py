"""Multiply-adds per prediction of the training forms, counted from the layers' sizes.

D vector, T context length, H hidden, A attention width.
"""

from __future__ import annotations

from lvm_runtime.artifact.config import AMNConfig, GRUConfig, LSTMConfig, ModelConfig, TransformerConfig


def multiply_adds(config: ModelConfig) -> int:
    """Return the multiply-adds of one prediction from `[T, D]`; one is two floating-point operations.

    Matrix products only: normalisations and activations are a per mille of them.
    """
    if isinstance(config, AMNConfig):
        return _amn(config)
    if isinstance(config, LSTMConfig):
        return _lstm(config)
    if isinstance(config, GRUConfig):
        return _gru(config)
    assert isinstance(config, TransformerConfig)
    return _transformer(config)


def _amn(c: AMNConfig) -> int:
    attention = (c.context_length + 1) * c.dim * c.attention_dim
    attention += c.context_length * (c.attention_dim + c.dim)
    residual = 2 * c.dim * c.hidden_dim + c.hidden_dim * c.bottleneck_dim + c.bottleneck_dim * c.dim
    return attention + residual


def _lstm(c: LSTMConfig) -> int:
    inputs = c.dim + (c.num_layers - 1) * c.hidden_dim
    layers = 4 * c.hidden_dim * (inputs + c.num_layers * c.hidden_dim)
    return c.context_length * layers + c.hidden_dim * c.dim


def _gru(c: GRUConfig) -> int:
    block = 3 * c.hidden_dim * 2 * c.hidden_dim
    return c.context_length * (c.dim * c.hidden_dim + c.num_layers * block) + c.hidden_dim * c.dim


def _transformer(c: TransformerConfig) -> int:
    steps, hidden = c.context_length, c.hidden_dim
    attention = 4 * hidden * hidden * steps + 2 * steps * steps * hidden
    layer = 2 * attention + 2 * hidden * c.ffn_dim * steps
    head = hidden * hidden + hidden * c.dim
    return steps * c.dim * hidden + c.num_layers * layer + head
