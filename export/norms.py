"""The norm of vectors up to which an int8 form stays within its limit of drift.

Steps of int8 are shares of a vector's largest component. Scores of attention grow with the square of the norm, so that
they are off by ever more: with random weights the Transformer's drift is 6e-4 at a norm of 100 and 0.2 at 10,000.
Verification looks at contexts as they come; here they are made longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from lvm_runtime.artifact.drift import DRIFT_LIMITS, max_drift
from lvm_runtime.backends import backend_class
from lvm_runtime.backends.base import Backend
from lvm_runtime.models import known_answers

from .source import Source
from .verify import Sample

CONTEXTS = 32
ROUNDING = 1e-5
"""Relative difference between the norms of vectors that were scaled to one length, after rounding."""


def largest_norm(path: Path, source: Source, samples: Sequence[Sample], *, format: str, precision: str) -> float | None:
    """Return the norm up to which the verified form at `path` may be used, None in full precision.

    It is that of the longest vector of the last sample, the real one if there is one, doubled as often as the drift of
    its first contexts stays within the limit of `precision`.
    """
    if precision == "fp32":
        return None
    contexts = samples[-1].contexts
    longest = float(np.linalg.norm(contexts.astype(np.float64), axis=2).max())
    scale = 1.0
    with closing(backend_class(format)(path, device="cpu", threads=1, precision=precision)) as backend:
        while 0 < longest * scale * 2 <= Backend.largest_norm:
            longer = contexts[:CONTEXTS] * np.float32(scale * 2)
            if max_drift(backend.run(longer), known_answers(source.model, longer)[0]) > DRIFT_LIMITS[precision]:
                break
            scale *= 2
    return longest * scale * (1 + ROUNDING)
