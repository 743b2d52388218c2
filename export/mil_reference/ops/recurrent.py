"""The fused LSTM operation.

x `[S, B, I]`; gates are stacked in the order input, forget, output, cell.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..arithmetic import Array
from ..registry import Call, operation
from .elementwise import sigmoid

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0.0),
    "sigmoid": sigmoid,
    "tanh": np.tanh,
}


@operation("lstm")
def lstm(call: Call) -> tuple[Array, Array, Array]:
    """Run an LSTM forwards, backwards or both; returns the states (all, or the last), last hidden, last cell."""
    x, h, c = call["x"], call["initial_h"], call["initial_c"]
    if call.get("peephole") is not None or call.get("clip") is not None:
        raise call.unsupported("peephole or clip")
    direction = str(call.get("direction", "forward"))
    width = call["weight_hh"].shape[1]
    runs = []
    if direction in ("forward", "bidirectional"):
        runs.append(_run(call, x, h[:, :width], c[:, :width], ""))
    if direction in ("reverse", "bidirectional"):
        suffix = "_back" if runs else ""
        states, h_last, c_last = _run(call, x[::-1], h[:, -width:], c[:, -width:], suffix)
        runs.append((states[::-1], h_last, c_last))
    states, h_last, c_last = (np.concatenate(parts, axis=-1) for parts in zip(*runs, strict=True))
    if not call.get("output_sequence", False):
        states = h_last[None]
    return states, h_last, c_last


def _run(call: Call, x: Array, h: Array, c: Array, suffix: str) -> tuple[Array, Array, Array]:
    gate = _activation(call, "recurrent_activation", "sigmoid")
    candidate = _activation(call, "cell_activation", "tanh")
    output = _activation(call, "activation", "tanh")
    w_ih, w_hh, bias = (call.get(name + suffix) for name in ("weight_ih", "weight_hh", "bias"))
    rounded, matmul = call.arithmetic.rounded, call.arithmetic.matmul
    states = []
    for step in x:
        total = matmul(step, w_ih.T, call.dtype) + matmul(h, w_hh.T, call.dtype) + (0.0 if bias is None else bias)
        i, f, o, z = np.split(rounded(total, call.dtype), 4, axis=-1)
        c = rounded(gate(f) * c + gate(i) * candidate(z), call.dtype)
        h = rounded(gate(o) * output(c), call.dtype)
        states.append(h)
    return np.stack(states), h, c


def _activation(call: Call, name: str, default: str) -> Callable[[Array], Array]:
    kind = str(call.get(name, default))
    if kind not in _ACTIVATIONS:
        raise call.unsupported(f"{name} {kind!r}")
    return _ACTIVATIONS[kind]
