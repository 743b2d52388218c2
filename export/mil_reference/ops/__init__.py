"""Evaluators of MIL operations by family; importing this package registers them all.

Semantics follow the operation reference of coremltools
(https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html).
"""

from . import (
    constants,
    control,
    convolution,
    elementwise,
    indexing,
    products,
    recurrent,
    reductions,
    shapes,
)

__all__ = [
    "constants",
    "control",
    "convolution",
    "elementwise",
    "indexing",
    "products",
    "recurrent",
    "reductions",
    "shapes",
]
