"""The norm of vectors up to which an int8 form stays within its limit of drift.

Steps of int8 are shares of a vector's largest component. Scores of attention grow with the square of the norm, so that
they are off by ever more: with random weights the Transformer's drift is 6e-4 at a norm of 100 and 0.2 at 10,000.
Verification looks at contexts as they come; here they are made longer, and so are some vectors of a context alone: a
long last vector hides how far off is what was made of those before it. GRUs that stayed within the limit up to 500,000
drifted by up to 3e-2 where long vectors came before short ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from lvm_runtime.artifact.drift import ATTENTION_LIMITS, DRIFT_LIMITS, largest_difference, max_drift
from lvm_runtime.backends import backend_class
from lvm_runtime.backends.base import Array, Backend
from lvm_runtime.models import known_answers

from .source import Source
from .verify import Sample

CONTEXTS = 32
ROUNDING = 1e-5
"""Relative difference between the norms of vectors that were scaled to one length, after rounding."""


def largest_norm(path: Path, source: Source, samples: Sequence[Sample], *, format: str, precision: str) -> float | None:
    """Return the norm up to which the verified form at `path` may be used, None in full precision.

    It is that of the longest vector of the last sample, the real one if there is one, doubled as often as the drift of
    its first contexts, and the AMN's attention, stay within the limits of `precision`, and halved until all contexts
    do: where 32 are within them, one in seventy may drift 2.6 times as far.
    """
    if precision == "fp32":
        return None
    contexts = samples[-1].contexts
    longest = float(np.linalg.norm(contexts.astype(np.float64), axis=2).max())
    scale = 1.0
    with closing(backend_class(format)(path, device="cpu", threads=1, precision=precision)) as backend:
        while 0 < longest * scale * 2 <= Backend.largest_norm:
            if not _is_same_model(backend, source, _lengthened(contexts[:CONTEXTS], scale * 2), precision):
                break
            scale *= 2
        while scale > 1 and not _is_same_model(backend, source, _lengthened(contexts, scale), precision):
            scale /= 2
    return longest * scale * (1 + ROUNDING)


def _lengthened(contexts: Array, scale: float) -> Array:
    """Return `contexts` `[n, T, D]` with all vectors longer, all but the last, or the last alone, in turn."""
    longer = contexts * np.float32(scale)
    longer[1::3, -1:] = contexts[1::3, -1:]
    longer[2::3, :-1] = contexts[2::3, :-1]
    return longer


def _is_same_model(backend: Backend, source: Source, contexts: Array, precision: str) -> bool:
    answers, attention = known_answers(source.model, contexts)
    if max_drift(backend.run(contexts), answers) > DRIFT_LIMITS[precision]:
        return False
    if attention is None:
        return True
    off = largest_difference(backend.run_with_attention(contexts)[1], attention)
    return off <= ATTENTION_LIMITS[precision]
