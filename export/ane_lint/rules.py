"""The rules. Each looks at one operation and returns what it has to say about it, or None.

Sources: Apple's Core ML and coremltools documentation, Apple's "Deploying Transformers on the Apple Neural Engine",
issues of apple/coremltools (numbers in the texts), and, for the traps of the M1, the measurements of
sbryngelson/ANEForge. They are collected from others' devices: a Mac has the last word.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ..mil_reference.arithmetic import SMALLEST_NORMAL
from ..mil_reference.program import dtype_of
from .findings import Finding, Level

LARGEST = 65504.0
RECURRENT = {"lstm", "gru", "rnn"}
CONTROL = {"while_loop", "cond"}
LISTS = {"make_list", "list_read", "list_write", "list_gather", "list_scatter", "list_length"}
GATHERS = {"gather", "gather_nd", "gather_along_axis", "scatter", "scatter_nd", "scatter_along_axis", "non_zero"}
DYNAMIC = {"shape", "fill", "range_1d", "one_hot", "random_normal", "random_uniform"}
AWKWARD = {"tile", "select", "cumsum", "reduce_argmax", "reduce_argmin", "argsort", "topk", "band_part", "reverse"}
ELIGIBLE = {
    *("conv", "conv_transpose", "matmul", "linear", "softmax", "layer_norm", "instance_norm", "batch_norm"),
    *("sigmoid", "tanh", "relu", "relu6", "leaky_relu", "prelu", "elu", "silu", "erf", "gelu", "rsqrt", "sqrt", "exp"),
    *("square", "abs", "inverse", "log", "clip", "add", "sub", "mul", "real_div", "maximum", "minimum", "pow"),
    *("reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_sum_square", "reduce_l2_norm"),
    *("concat", "split", "reshape", "transpose", "expand_dims", "squeeze", "slice_by_index", "slice_by_size", "pad"),
    *("max_pool", "avg_pool", "identity", "cast", "scaled_dot_product_attention", "stack", "softplus"),
}

Rule = Callable[[Any], Finding | None]


def _finding(level: Level, op: Any, rule: str, why: str, remedy: str) -> Finding:
    return Finding(level, rule, f"{op.op_type} {op.outputs[0].name}", why, remedy)


_error, _warning, _note = (partial(_finding, level) for level in (Level.ERROR, Level.WARNING, Level.NOTE))


def unavailable(op: Any) -> Finding | None:
    """Operations that the engine does not have."""
    kind = op.op_type
    if kind in RECURRENT:
        return _error(op, "recurrent", "recurrent operations do not run there (#1780)", "unroll it")
    if kind in CONTROL | LISTS:
        return _error(op, "control", "loops, branches and lists do not run there", "unroll them")
    if kind in GATHERS:
        return _error(op, "gather", "indexing by data runs on the CPU", "use split instead")
    if kind in DYNAMIC:
        return _error(op, "dynamic", "sizes computed at run time run on the CPU", "convert with constant sizes")
    if kind in AWKWARD:
        return _warning(op, "awkward", "often runs on the CPU", "rewrite it by broadcasting or a constant")
    if kind not in ELIGIBLE:
        return _note(op, "unknown", "not known to run there", "look at its place with `lvm-runtime placement` on a Mac")
    return None


def full_precision(op: Any) -> Finding | None:
    """Results in fp32: the engine computes in fp16 only."""
    if any(dtype_of(output) == "fp32" for output in op.outputs):
        return _error(op, "fp32", "fp32 results are computed on the CPU or GPU", "convert in fp16, inputs too")
    return None


def integers(op: Any) -> Finding | None:
    """Results in integers, of operations that are not errors already."""
    if op.op_type in ELIGIBLE | AWKWARD and any(dtype_of(output).startswith(("int", "uint")) for output in op.outputs):
        return _warning(op, "integers", "integer arithmetic runs on the CPU", "compute it before converting")
    return None


def infinite_bound(op: Any) -> Finding | None:
    """A clip with an infinite bound, which `clamp(min=…)` becomes."""
    if op.op_type == "clip" and any(abs(_scalar(op, name)) > LARGEST for name in ("alpha", "beta")):
        return _warning(op, "bound", "a bound is beyond fp16", "use clamp_min or maximum instead")
    return None


def large_constant(op: Any) -> Finding | None:
    """Constants that fp16 cannot hold, such as masks of minus infinity, where they are added."""
    for value in _constants(op):
        if op.op_type in ("add", "sub", "mul", "select") and np.abs(value).max(initial=0.0) > LARGEST:
            return _warning(op, "infinity", "infinities can become NaN in fp16", "use a mask of -3e4 instead")
    return None


def tiny_constant(op: Any) -> Finding | None:
    """Guards against division by zero that fp16 cannot hold as a normal number."""
    tiny = any(0.0 < np.abs(value).max(initial=0.0) < SMALLEST_NORMAL for value in _constants(op))
    if op.op_type in ("maximum", "add", "clip", "real_div") and tiny and dtype_of(op.outputs[0]) == "fp16":
        return _warning(
            op,
            "epsilon",
            "its constant is below fp16's normal numbers (6e-5): flushed to zero, zeros give NaN",
            "scale by the largest magnitude first, and use a larger constant",
        )
    return None


def shifted_slice(op: Any) -> Finding | None:
    """Slices that start inside the last axis."""
    if op.op_type != "slice_by_index" or op.begin.val is None or not op.x.rank:
        return None
    masked = op.begin_mask is not None and op.begin_mask.val is not None and bool(op.begin_mask.val[-1])
    if op.begin.val[-1] and not masked:
        return _warning(op, "slice", "an M1 clamps such slices at ±4094", "use split, or slice another axis")
    return None


def high_rank(op: Any) -> Finding | None:
    """Tensors of rank 5 and more."""
    if any(getattr(output, "rank", 0) > 4 for output in op.outputs if dtype_of(output) != "list"):
        return _warning(op, "rank", "the engine works on four axes", "reshape to (B, C, 1, S)")
    return None


def linear_layer(op: Any) -> Finding | None:
    """Linear layers."""
    if op.op_type == "linear":
        return _note(op, "linear", "1x1 convolutions on (B, C, 1, S) suit the engine better", "use those")
    return None


def fused_gelu(op: Any) -> Finding | None:
    """GELU as one operation."""
    if op.op_type == "gelu":
        return _note(
            op,
            "gelu",
            "an M1 looks it up in a table (relative error up to 0.08 was seen)",
            "check the device's answers, or spell it out (`lvm-runtime export coreml` does so with --gelu erf)",
        )
    return None


def expanded_weights(op: Any) -> Finding | None:
    """Compressed weights that an M1 expands."""
    eight_bits = "constexpr_affine_dequantize", "constexpr_blockwise_shift_scale"
    if op.op_type in eight_bits:
        return _note(op, "weights", "an M1 expands int8 weights on loading", "expect a smaller file, not speed")
    return None


OPERATION_RULES: tuple[Rule, ...] = (
    unavailable,
    full_precision,
    integers,
    infinite_bound,
    large_constant,
    tiny_constant,
    shifted_slice,
    high_rank,
    linear_layer,
    fused_gelu,
)


def _scalar(op: Any, name: str) -> float:
    variable = op.inputs.get(name)
    return 0.0 if variable is None or variable.val is None else float(variable.val)


def _constants(op: Any) -> list[np.ndarray]:
    """Return the floating constants among an operation's tensor inputs x, y, a, b, alpha, beta."""
    values = []
    for name in ("x", "y", "a", "b", "alpha", "beta"):
        variable = op.inputs.get(name)
        value = None if variable is None else getattr(variable, "val", None)
        if value is not None and np.asarray(value).dtype.kind == "f":
            values.append(np.asarray(value, dtype=np.float64))
    return values
