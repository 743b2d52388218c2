"""Small models whose packages convert in a second."""

from __future__ import annotations

from pathlib import Path

from export.source import Source
from export.verify import Sample
from lvm_runtime.artifact.fingerprint import random_contexts
from lvm_runtime.models import save_model
from tests.artifacts import randomised

DIM, LENGTH = 64, 3
SMALL = {
    "lstm": {"hidden_dim": 32},
    "gru": {"hidden_dim": 32, "num_layers": 2},
    "transformer": {"hidden_dim": 32, "num_heads": 4, "ffn_dim": 64, "num_layers": 2},
    "amn": {"attention_dim": 32, "hidden_dim": 48, "bottleneck_dim": 32},
}


def small_source(architecture: str, folder: Path) -> Source:
    """Return an artifact of a small model with every parameter random."""
    model = randomised(architecture, dim=DIM, context_length=LENGTH, **SMALL[architecture])
    return Source(save_model(model, folder / architecture), model)


def few(source: Source, count: int = 12) -> tuple[Sample, ...]:
    """Return one sample of `count` contexts."""
    config = source.artifact.config
    return (Sample.of("random", source.model, random_contexts(count, config.context_length, config.dim)),)
