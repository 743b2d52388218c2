"""Probe contexts and the answers that a model is known to give to them.

Every backend answers the probes when it is built. Shapes and file formats cannot tell a model from a
look-alike with another activation; behaviour can.

n probes, T context length, D vector.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.errors import ArtifactError, InvalidInput

RANDOM_PROBES = 16
REAL_PROBES = 16


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Probes `contexts` float32 `[n, T, D]`, float64 answers `predictions` `[n, D]`, `attention` `[n, T]` or None."""

    contexts: NDArray[np.float32]
    predictions: NDArray[np.float64]
    attention: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        n = self.contexts.shape[0]
        if self.contexts.ndim != 3 or self.predictions.shape != (n, self.contexts.shape[2]):
            raise InvalidInput(
                f"fingerprint: contexts {self.contexts.shape} and predictions {self.predictions.shape} do not fit; "
                "expected [n, T, D] and [n, D]"
            )
        if self.attention is not None and self.attention.shape != self.contexts.shape[:2]:
            raise InvalidInput(f"fingerprint: attention {self.attention.shape}, expected {self.contexts.shape[:2]}")

    @property
    def real(self) -> NDArray[np.float32]:
        """The probes that come from documents `[m, T, D]`, none if the model was made without any."""
        return self.contexts[RANDOM_PROBES:]

    def to_bytes(self) -> bytes:
        """Serialise as an uncompressed `.npz`."""
        arrays: dict[str, Any] = {"contexts": self.contexts, "predictions": self.predictions}
        if self.attention is not None:
            arrays["attention"] = self.attention
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, source: str) -> Fingerprint:
        """Read what `to_bytes` wrote; `source` names the file in the ArtifactError for anything else."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                attention = arrays.get("attention", None)
                return cls(arrays["contexts"], arrays["predictions"], attention)
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ArtifactError(f"{source}: not a fingerprint ({error}); expected contexts and predictions") from error


def random_contexts(count: int, context_length: int, dim: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Return unit vectors `[count, T, D]` float32 that share a direction and, within a context, a topic.

    Document vectors share a mean direction and drift along a topic. Zeros or independent noise would leave most of a
    model unexercised.
    """
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal(dim)
    topic = rng.standard_normal((count, 1, dim))
    contexts = shared + topic + rng.standard_normal((count, context_length, dim))
    contexts /= np.linalg.norm(contexts, axis=2, keepdims=True)
    return contexts.astype(np.float32)


def probe_contexts(
    dim: int, context_length: int, real: NDArray[np.floating] | None = None, *, seed: int = 0
) -> NDArray[np.float32]:
    """Return `[n, T, D]` float32 probes: 16 random contexts, and up to 16 of the `real` ones."""
    parts = [random_contexts(RANDOM_PROBES, context_length, dim, seed=seed)]
    if real is not None and len(real):
        if real.shape[1:] != (context_length, dim):
            raise InvalidInput(f"real contexts have shape {real.shape}, expected [n, {context_length}, {dim}]")
        parts.append(real[np.linspace(0, len(real) - 1, min(REAL_PROBES, len(real))).astype(int)].astype(np.float32))
    return np.concatenate(parts)
