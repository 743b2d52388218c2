"""Multiply-adds (MAC) of one prediction by the training form, in closed form.

Counted from the products alone, without activations and norms. What is left after rewriting is counted by
`export.forms.multiply_adds`, by running the deployment form.

B batch, T context length, D vector, H hidden width.
"""

from __future__ import annotations

from lvm_runtime.artifact.config import AMNConfig, GRUConfig, LSTMConfig, ModelConfig, TransformerConfig

BYTES_PER_WEIGHT = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


def plain_macs(config: ModelConfig) -> int:
    """Return the multiply-adds of one prediction by the training form."""
    t = config.context_length
    if isinstance(config, LSTMConfig):
        return t * _recurrent(config.dim, config.hidden_dim, config.num_layers, 4) + config.hidden_dim * config.dim
    if isinstance(config, GRUConfig):
        h = config.hidden_dim
        return t * (config.dim * h + _recurrent(h, h, config.num_layers, 3)) + h * config.dim
    if isinstance(config, TransformerConfig):
        h = config.hidden_dim
        layer = t * (8 * h * h + 2 * h * config.ffn_dim) + 4 * t * t * h
        return t * config.dim * h + config.num_layers * layer + h * h + h * config.dim
    assert isinstance(config, AMNConfig)
    return (t + 1) * config.dim * config.attention_dim + 2 * t * config.dim + _amn_residual(config)


def _recurrent(inputs: int, hidden: int, layers: int, gates: int) -> int:
    """Return the products of one step through `layers` recurrent layers."""
    return gates * hidden * (inputs + hidden) + (layers - 1) * gates * hidden * 2 * hidden


def _amn_residual(config: AMNConfig) -> int:
    dim, hidden, bottleneck = config.dim, config.hidden_dim, config.bottleneck_dim
    return 2 * dim * hidden + hidden * bottleneck + bottleneck * dim
