"""Smaller weights: palettes of 4, 6 or 8 bits, or 8-bit integers.

One palette per tensor, as macOS 13 and later can read them. Only the storage shrinks everywhere; an M1 streams
4-bit palettes as they are and expands the others when the model is loaded.
"""

from __future__ import annotations

from typing import Any

SMALLEST = 512
"""Tensors with fewer values are left alone: biases, norms and masks cost nothing and matter much."""


def compressed(model: Any, kind: str) -> Any:
    """Return `model` (an MLModel) with its weights compressed as `kind` says; "none" returns it as it is."""
    if kind == "none":
        return model
    from coremltools.optimize import coreml as optimize

    if kind == "int8":
        quantizer = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=SMALLEST)
        return optimize.linear_quantize_weights(model, optimize.OptimizationConfig(global_config=quantizer))
    bits = int(kind.removeprefix("palette"))
    palettizer = optimize.OpPalettizerConfig(mode="kmeans", nbits=bits, weight_threshold=SMALLEST)
    return optimize.palettize_weights(model, optimize.OptimizationConfig(global_config=palettizer))
