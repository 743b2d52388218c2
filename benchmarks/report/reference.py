"""What the reference implementation's authors measured, on hardware that was not at hand here.

Apple M1 Max, MPS, eager PyTorch: predictions per second at batch 1, milliseconds per prediction in batches.
"""

from __future__ import annotations

LABEL = "reference implementation on an Apple M1 Max (MPS, eager PyTorch), as its authors measured it"

PER_SECOND_AT_1 = {"amn": 2022.0, "lstm": 1797.0, "gru": 480.0, "transformer": 373.0}

MILLISECONDS_PER_PREDICTION = {
    "amn": {8: 0.090, 32: 0.029, 128: 0.005},
    "lstm": {8: 0.072, 32: 0.018, 128: 0.009},
    "gru": {8: 0.341, 32: 0.085, 128: 0.027},
    "transformer": {8: 0.386, 32: 0.125, 128: 0.036},
}


def per_second(model: str, batch: int) -> float | None:
    """Return the reference's predictions per second, or None for a batch size it was not measured at."""
    if batch == 1:
        return PER_SECOND_AT_1.get(model)
    milliseconds = MILLISECONDS_PER_PREDICTION.get(model, {}).get(batch)
    return None if milliseconds is None else 1e3 / milliseconds
