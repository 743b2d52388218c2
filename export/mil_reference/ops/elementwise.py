"""Operations on each element: arithmetic, comparisons, activations, casts."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..arithmetic import Array
from ..registry import OPERATIONS, Call, operation

_ERF = np.frompyfunc(math.erf, 1, 1)


def erf(x: Array) -> Array:
    """Return the error function in float64 (numpy has none)."""
    return np.asarray(_ERF(x), dtype=np.float64)


def sigmoid(x: Array) -> Array:
    """Return 1/(1+e^−x) by tanh, which does not overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


UNARY: dict[str, Callable[[Array], Array]] = {
    "abs": np.abs,
    "ceil": np.ceil,
    "cos": np.cos,
    "erf": erf,
    "exp": np.exp,
    "exp2": np.exp2,
    "floor": np.floor,
    "identity": lambda x: x,
    "logical_not": np.logical_not,
    "relu": lambda x: np.maximum(x, 0.0),
    "relu6": lambda x: np.clip(x, 0.0, 6.0),
    "round": np.round,
    "sigmoid": sigmoid,
    "sign": np.sign,
    "silu": lambda x: x * sigmoid(x),
    "sin": np.sin,
    "softplus": lambda x: np.logaddexp(0.0, x),
    "softsign": lambda x: x / (1.0 + np.abs(x)),
    "sqrt": np.sqrt,
    "square": np.square,
    "tanh": np.tanh,
}
BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "equal": np.equal,
    "floor_div": np.floor_divide,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "mod": np.mod,
    "mul": np.multiply,
    "not_equal": np.not_equal,
    "pow": np.power,
    "real_div": np.true_divide,
    "sub": np.subtract,
}


def _unary(function: Callable[[Array], Array]) -> Callable[[Call], Array]:
    return lambda call: function(call["x"])


def _binary(function: Callable[[Array, Array], Array]) -> Callable[[Call], Array]:
    return lambda call: function(call["x"], call["y"])


OPERATIONS.update({name: _unary(function) for name, function in UNARY.items()})
OPERATIONS.update({name: _binary(function) for name, function in BINARY.items()})


@operation("rsqrt")
def rsqrt(call: Call) -> Array:
    """1/√(x+ε)."""
    return 1.0 / np.sqrt(call["x"] + call.get("epsilon", 0.0))


@operation("inverse")
def inverse(call: Call) -> Array:
    """1/(x+ε)."""
    return 1.0 / (call["x"] + call.get("epsilon", 0.0))


@operation("log")
def log(call: Call) -> Array:
    """ln(x+ε)."""
    return np.log(call["x"] + call.get("epsilon", 0.0))


@operation("clip")
def clip(call: Call) -> Array:
    """Clamp to [alpha, beta]."""
    return np.clip(call["x"], call["alpha"], call["beta"])


@operation("threshold")
def threshold(call: Call) -> Array:
    """max(x, alpha)."""
    return np.maximum(call["x"], call["alpha"])


@operation("leaky_relu")
def leaky_relu(call: Call) -> Array:
    """x where positive, else alpha·x."""
    return np.where(call["x"] >= 0, call["x"], call["alpha"] * call["x"])


@operation("elu")
def elu(call: Call) -> Array:
    """x where positive, else alpha·(e^x − 1)."""
    return np.where(call["x"] >= 0, call["x"], call["alpha"] * np.expm1(call["x"]))


@operation("prelu")
def prelu(call: Call) -> Array:
    """x where positive, else alpha·x, with one alpha per channel."""
    x = call["x"]
    return np.where(x >= 0, x, call["alpha"].reshape(-1, *(1,) * (x.ndim - 2)) * x)


@operation("sigmoid_hard")
def sigmoid_hard(call: Call) -> Array:
    """clip(alpha·x + beta, 0, 1)."""
    return np.clip(call["alpha"] * call["x"] + call["beta"], 0.0, 1.0)


@operation("linear_activation")
def linear_activation(call: Call) -> Array:
    """alpha·x + beta."""
    return call["alpha"] * call["x"] + call.get("beta", 0.0)


@operation("gelu")
def gelu(call: Call) -> Array:
    """x·Φ(x), by erf or by one of its two approximations."""
    x, mode = call["x"], str(call.get("mode", "EXACT"))
    if mode == "EXACT":
        return 0.5 * x * (1.0 + erf(x / math.sqrt(2.0)))
    if mode == "TANH_APPROXIMATION":
        return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    if mode == "SIGMOID_APPROXIMATION":
        return x * sigmoid(1.702 * x)
    raise call.unsupported(f"mode {mode!r}")


@operation("cast")
def cast(call: Call) -> Array:
    """Change the type; towards integers it truncates. The evaluator itself rounds towards floating types."""
    x = np.asarray(call["x"])
    if call.dtype == "bool":
        return x != 0
    return x if call.dtype.startswith("fp") else np.trunc(x).astype(np.int64)


@operation("select")
def select(call: Call) -> Array:
    """a where cond, else b."""
    return np.where(call["cond"], call["a"], call["b"])
