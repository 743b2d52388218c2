"""How far a prediction is from its known answer, and how far each precision may be.

Drift of a row = 1 − cosine(prediction, known answer). For unit vectors that is half the squared
distance, and computed so it keeps its digits where `1 − dot` would lose them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.errors import VerificationFailed

PRECISIONS = ("fp32", "fp16", "bf16", "int8")

DRIFT_LIMITS: dict[str, float] = {"fp32": 1e-6, "fp16": 1e-4, "bf16": 1e-3, "int8": 1e-3}
"""Largest drift per row at which a form of this precision still counts as the same model."""

FP32_ABSOLUTE_LIMIT = 2e-5
"""Largest difference in one component for fp32: drift alone is too forgiving at full precision (1e-6 is an
angle of 1.4e-3), and a device that quietly computes in TF32 passes it."""

BATCH_INVARIANCE_LIMIT = 1e-6
"""Largest change in one component of a row that its batch-mates may cause, in every precision."""

OVERLAP_LIMIT = 0.98
"""Smallest share of the ten vectors that the training form finds first in a corpus, and that another form must find."""

LENGTH_LIMIT = 1e-2
"""Largest difference between the length of a prediction and that of its known answer, which drift does not see. A
number in bf16 is rounded by up to 4e-3 of it."""

ATTENTION_LIMITS: dict[str, float] = {"fp32": 2e-5, "fp16": 2e-3, "bf16": 2e-2, "int8": 2e-2}
"""Largest difference in one attention weight. People look at them, and need two digits."""


def drift(predictions: NDArray[Any], answers: NDArray[Any]) -> NDArray[np.float64]:
    """Return the drift of each row `[n]` of `predictions` `[n, D]` against `answers` `[n, D]`, in float64.

    A row with a NaN, an infinity, or no direction at all has a drift of infinity.
    """
    p = np.asarray(predictions, dtype=np.float64)
    a = np.asarray(answers, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        p = p / np.linalg.norm(p, axis=-1, keepdims=True)
        a = a / np.linalg.norm(a, axis=-1, keepdims=True)
        result = 0.5 * np.square(p - a).sum(axis=-1)
    return np.where(np.isfinite(result), result, np.inf)


def max_drift(predictions: NDArray[Any], answers: NDArray[Any]) -> float:
    """Return the largest row drift, 0.0 for no rows."""
    return float(drift(predictions, answers).max(initial=0.0))


def largest_difference(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the largest difference in one component, 0.0 for no rows.

    Infinity if there is a NaN or an infinity in either, or if their shapes differ.
    """
    if found.shape != expected.shape:
        return np.inf
    with np.errstate(invalid="ignore"):
        difference = np.abs(np.asarray(found, np.float64) - np.asarray(expected, np.float64))
    return float(np.where(np.isfinite(difference), difference, np.inf).max(initial=0.0))


def largest_length_difference(predictions: NDArray[Any], answers: NDArray[Any]) -> float:
    """Return the largest difference between the norms of a row of each `[n, D]`; infinity as `largest_difference`."""
    with np.errstate(over="ignore"):
        lengths = [np.linalg.norm(np.asarray(rows, np.float64), axis=-1) for rows in (predictions, answers)]
    return largest_difference(*lengths)


def require(found: float, limit: float, what: str, remedy: str) -> None:
    """Raise VerificationFailed, with both numbers and the remedy, unless `found` is at most `limit`; a NaN is not."""
    if not found <= limit:
        raise VerificationFailed(f"{what} is {found:.2e}, expected ≤ {limit:.1e}; {remedy}")
