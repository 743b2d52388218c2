"""A reference evaluator of Core ML programs: any `mlprogram` package, on any machine, in numpy.

Core ML itself runs on Apple's systems only, so a package made on Linux could so far be inspected and not be
tried. This walks the package's MIL program (coremltools loads it) one operation at a time.

What it proves: that the package computes what its maker meant: right weights in the right places, right gate
order, right masks, right shapes at every batch size, and, in its fp16 modes, that the numbers survive fp16. What
it does not: which device Core ML chooses, how fast, how that device rounds, or bugs of Core ML itself.

    lvm-runtime export mil-reference PACKAGE --input contexts.npy --mode fp16
"""

from .arithmetic import MODES, Arithmetic
from .evaluate import Evaluator
from .program import load_program, operations
from .registry import OPERATIONS, UnsupportedOperation

__all__ = ["MODES", "OPERATIONS", "Arithmetic", "Evaluator", "UnsupportedOperation", "load_program", "operations"]
