"""Each operation of the evaluator, built into a program and compared with torch or with coremltools' own inference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from export.mil_reference import OPERATIONS
from tests.export.mil_reference.programs import IMAGE, TOLERANCE, Array, X, Y, mb, run, t

P = np.abs(X) + 0.1
W = np.random.default_rng(3).standard_normal((5, 4)).astype(np.float32)
K = np.random.default_rng(4).standard_normal((6, 4, 3, 2)).astype(np.float32)
G = np.random.default_rng(5).standard_normal((6, 2, 3, 2)).astype(np.float32)
ONE = np.random.default_rng(6).standard_normal((6, 4, 1, 1)).astype(np.float32)
V = np.random.default_rng(7).standard_normal(6).astype(np.float32)
S = np.asarray([0.3, 0.7, 1.1, 1.9], np.float32)

UNARY: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], Array, dict[str, Any]]] = {
    "abs": (torch.abs, X, {}),
    "ceil": (torch.ceil, X, {}),
    "cos": (torch.cos, X, {}),
    "erf": (torch.erf, X, {}),
    "exp": (torch.exp, X, {}),
    "exp2": (torch.exp2, X, {}),
    "floor": (torch.floor, X, {}),
    "identity": (lambda x: x, X, {}),
    "relu": (F.relu, X, {}),
    "relu6": (F.relu6, 5 * X, {}),
    "round": (torch.round, 3 * X, {}),
    "sigmoid": (torch.sigmoid, 30 * X, {}),
    "sign": (torch.sign, X, {}),
    "silu": (F.silu, X, {}),
    "sin": (torch.sin, X, {}),
    "softplus": (F.softplus, X, {}),
    "softsign": (F.softsign, X, {}),
    "sqrt": (torch.sqrt, P, {}),
    "square": (torch.square, X, {}),
    "tanh": (torch.tanh, X, {}),
    "rsqrt": (lambda x: (x + 0.5).rsqrt(), P, {"epsilon": 0.5}),
    "inverse": (lambda x: 1 / (x + 0.5), P, {"epsilon": 0.5}),
    "log": (lambda x: (x + 0.5).log(), P, {"epsilon": 0.5}),
    "clip": (lambda x: x.clamp(-0.5, 0.25), X, {"alpha": -0.5, "beta": 0.25}),
    "clip without a lower bound": (lambda x: x.clamp_max(0.25), X, {"alpha": -np.inf, "beta": 0.25}),
    "threshold": (lambda x: x.clamp_min(0.2), X, {"alpha": 0.2}),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.3), X, {"alpha": 0.3}),
    "elu": (lambda x: F.elu(x, 0.7), X, {"alpha": 0.7}),
    "sigmoid_hard": (lambda x: (0.2 * x + 0.4).clamp(0, 1), X, {"alpha": 0.2, "beta": 0.4}),
    "linear_activation": (lambda x: 1.5 * x + 0.25, X, {"alpha": 1.5, "beta": 0.25}),
    "prelu": (lambda x: F.prelu(x, t(S)), IMAGE, {"alpha": S}),
    "softmax": (lambda x: x.softmax(1), 40 * X, {"axis": 1}),
    "cumsum": (lambda x: x.cumsum(2), X, {"axis": 2}),
    "cumsum from zero": (lambda x: x.cumsum(2) - x, X, {"axis": 2, "exclusive": True}),
    "cumsum from the end": (lambda x: x.flip(1).cumsum(1).flip(1), X, {"axis": 1, "reverse": True}),
    "cumsum from the end to zero": (
        lambda x: x.flip(1).cumsum(1).flip(1) - x,
        X,
        {"axis": 1, "reverse": True, "exclusive": True},
    ),
    "reduce_sum": (lambda x: x.sum((0, 2)), X, {"axes": [0, 2]}),
    "reduce_mean": (lambda x: x.mean((1, 2), keepdim=True), X, {"axes": [-1, 1], "keep_dims": True}),
    "reduce_max": (lambda x: x.amax(1), X, {"axes": [1]}),
    "reduce_min": (lambda x: x.amin(1), X, {"axes": [1]}),
    "reduce_prod": (lambda x: x.prod(1), X, {"axes": [1]}),
    "reduce_l1_norm": (lambda x: x.abs().sum(2), X, {"axes": [2]}),
    "reduce_l2_norm": (lambda x: x.norm(dim=2), X, {"axes": [2]}),
    "reduce_sum_square": (lambda x: x.square().sum(2), X, {"axes": [2]}),
    "reduce_log_sum": (lambda x: x.sum(2).log(), P, {"axes": [2]}),
    "reduce_log_sum_exp": (lambda x: x.logsumexp((1, 2), keepdim=True), 300 * X, {"axes": [1, 2], "keep_dims": True}),
    "reduce_argmax": (lambda x: x.argmax(1), X, {"axis": 1}),
    "reduce_argmin": (lambda x: x.argmin(2, keepdim=True), X, {"axis": 2, "keep_dims": True}),
    "layer_norm": (
        lambda x: F.layer_norm(x, (4,), t(S), t(S + 1), 1e-3),
        X,
        {"axes": [-1], "gamma": S, "beta": S + 1, "epsilon": 1e-3},
    ),
    "instance_norm": (
        lambda x: F.instance_norm(x, weight=t(S), bias=t(S + 1), eps=1e-3),
        IMAGE,
        {"gamma": S, "beta": S + 1, "epsilon": 1e-3},
    ),
    "batch_norm": (
        lambda x: F.batch_norm(x, t(S), t(S + 1), t(2 * S), t(S - 1), eps=1e-3),
        IMAGE,
        {"mean": S, "variance": S + 1, "gamma": 2 * S, "beta": S - 1, "epsilon": 1e-3},
    ),
    "l2_norm": (
        lambda x: x / (x.square().sum((1, 2, 3), keepdim=True) + 1e-3).sqrt(),
        IMAGE,
        {"epsilon": 1e-3},
    ),
    "reshape": (lambda x: x.reshape(3, 8), X, {"shape": [3, -1]}),
    "transpose": (lambda x: x.permute(2, 0, 1), X, {"perm": [2, 0, 1]}),
    "expand_dims": (lambda x: x[:, None, :, :, None], X, {"axes": [1, -1]}),
    "squeeze": (lambda x: x[0], X[:1], {"axes": [0]}),
    "flatten2d": (lambda x: x.reshape(6, 4), X, {"axis": 2}),
    "tile": (lambda x: x.repeat(1, 2, 3), X, {"reps": [1, 2, 3]}),
    "reverse": (lambda x: x.flip(0, 2), X, {"axes": [0, 2]}),
    "shape": (lambda x: torch.tensor(x.shape), X, {}),
    "band_part": (lambda x: x.tril(1).triu(-1), X, {"lower": 1, "upper": 1}),
    "slice_by_index": (
        lambda x: x[1, 0:3:2, 1:],
        X,
        {
            "begin": [1, 0, 1],
            "end": [2, 3, 0],
            "stride": [1, 2, 1],
            "end_mask": [False, False, True],
            "squeeze_mask": [True, False, False],
        },
    ),
    "slice_by_size": (lambda x: x[:, 1:, :2], X, {"begin": [0, 1, 0], "size": [2, -1, 2]}),
    "max_pool": (
        lambda x: F.max_pool2d(x, (3, 2), 2, (1, 1)),
        IMAGE,
        {"kernel_sizes": [3, 2], "strides": [2, 2], "pad_type": "custom", "pad": [1, 1, 1, 1]},
    ),
    "max_pool of negative numbers": (
        lambda x: F.max_pool2d(x, 3, 2, 1),
        -np.abs(IMAGE),
        {"kernel_sizes": [3, 3], "strides": [2, 2], "pad_type": "custom", "pad": [1, 1, 1, 1]},
    ),
    "avg_pool": (
        lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        IMAGE,
        {
            "kernel_sizes": [3, 3],
            "strides": [2, 2],
            "pad_type": "custom",
            "pad": [1, 1, 1, 1],
            "exclude_padding_from_average": True,
        },
    ),
}


@pytest.mark.parametrize("name", UNARY)
def test_operation_on_one_tensor_equals_torch(name: str) -> None:
    expected, x, settings = UNARY[name]
    result = run(lambda a: getattr(mb, name.split()[0])(x=a, **settings), x)[0]
    np.testing.assert_allclose(result, expected(t(x)).numpy(), rtol=TOLERANCE, atol=TOLERANCE)


BINARY: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "real_div": torch.div,
    "floor_div": lambda a, b: (a / b).floor(),
    "mod": torch.remainder,
    "pow": torch.pow,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "equal": torch.eq,
    "not_equal": torch.ne,
}


@pytest.mark.parametrize("name", BINARY)
def test_operation_on_two_tensors_equals_torch(name: str) -> None:
    a, b = (P, Y) if name == "pow" else (X, np.where(Y > 0.5, X, Y).astype(np.float32))
    b = b[:1]  # broadcast
    result = run(lambda p, q: getattr(mb, name)(x=p, y=q), a, b)[0]
    np.testing.assert_allclose(result, BINARY[name](t(a), t(b)).numpy(), rtol=TOLERANCE)


LOGICAL = {"logical_and": np.logical_and, "logical_or": np.logical_or, "logical_xor": np.logical_xor}


@pytest.mark.parametrize("name", LOGICAL)
def test_logical_operation(name: str) -> None:
    result = run(lambda p, q: getattr(mb, name)(x=mb.greater(x=p, y=0.0), y=mb.greater(x=q, y=0.0)), X, Y)[0]
    np.testing.assert_array_equal(result, LOGICAL[name](X > 0, Y > 0))
    np.testing.assert_array_equal(run(lambda p: mb.logical_not(x=mb.greater(x=p, y=0.0)), X)[0], X <= 0)


GELU: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "EXACT": F.gelu,
    "TANH_APPROXIMATION": lambda x: F.gelu(x, approximate="tanh"),
    "SIGMOID_APPROXIMATION": lambda x: x * torch.sigmoid(1.702 * x),
}


@pytest.mark.parametrize("mode", GELU)
def test_gelu(mode: str) -> None:
    np.testing.assert_allclose(run(lambda a: mb.gelu(x=a, mode=mode), X)[0], GELU[mode](t(X)).numpy(), atol=TOLERANCE)


CONVOLUTIONS: dict[str, tuple[Array, dict[str, Any], dict[str, Any]]] = {
    "1x1": (ONE, {}, {}),
    "valid": (K, {}, {}),
    "stride": (K, {"strides": [2, 3]}, {"stride": (2, 3)}),
    "dilation": (K, {"dilations": [2, 1]}, {"dilation": (2, 1)}),
    "padding": (K, {"pad_type": "custom", "pad": [1, 1, 2, 2]}, {"padding": (1, 2)}),
    "1x1 padding": (ONE, {"pad_type": "custom", "pad": [1, 1, 0, 0]}, {"padding": (1, 0)}),
    "same": (np.ascontiguousarray(K[..., :1]), {"pad_type": "same"}, {"padding": "same"}),
    "groups": (G, {"groups": 2}, {"groups": 2}),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_equals_torch(name: str) -> None:
    weight, settings, torch_settings = CONVOLUTIONS[name]
    result = run(lambda a: mb.conv(x=a, weight=weight, bias=V, **settings), IMAGE)[0]
    expected = F.conv2d(t(IMAGE), t(weight), t(V), **torch_settings).numpy()
    np.testing.assert_allclose(result, expected, atol=1e-5)


# height 7 and window 4 at stride 2 need three rows of zeros, an odd number; width 6 and window 2 need none
@pytest.mark.parametrize(("kind", "rows"), [("same", (1, 2)), ("same_lower", (2, 1))])
def test_same_padding_puts_the_odd_row_where_its_name_says(kind: str, rows: tuple[int, int]) -> None:
    kernel = np.concatenate([K, K[:, :, :1]], axis=2)
    result = run(lambda a: mb.conv(x=a, weight=kernel, pad_type=kind, strides=[2, 2]), IMAGE)[0]
    expected = F.conv2d(F.pad(t(IMAGE), (0, 0, *rows)), t(kernel), stride=2).numpy()
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize(("tx", "ty"), [(False, False), (True, False), (False, True), (True, True)])
def test_matmul_transposes(tx: bool, ty: bool) -> None:
    a = X.swapaxes(1, 2) if tx else X
    b = W if ty else W.T
    b = np.ascontiguousarray(np.broadcast_to(b, (2, *b.shape)))
    result = run(lambda p, q: mb.matmul(x=p, y=q, transpose_x=tx, transpose_y=ty), np.ascontiguousarray(a), b)[0]
    np.testing.assert_allclose(result, X.astype(np.float64) @ W.T, atol=TOLERANCE)


def test_linear_and_einsum() -> None:
    np.testing.assert_allclose(
        run(lambda a: mb.linear(x=a, weight=W, bias=V[:5]), X)[0], F.linear(t(X), t(W), t(V[:5])).numpy(), atol=1e-6
    )
    a, b = IMAGE[:, :3, :4, :5].copy(), np.resize(IMAGE, (2, 5, 4, 6))
    result = run(lambda p, q: mb.einsum(values=(p, q), equation="nchw,nwhu->nchu"), a, b)[0]
    np.testing.assert_allclose(result, torch.einsum("nchw,nwhu->nchu", t(a), t(b)).numpy(), atol=1e-6)


@pytest.mark.parametrize("masked", ["none", "float", "bool"])
def test_scaled_dot_product_attention_equals_torch(masked: str) -> None:
    import coremltools as ct

    allowed = np.tril(np.ones((3, 3), bool))
    mask = {"none": None, "float": np.where(allowed, 0, -5).astype(np.float32), "bool": allowed}[masked]
    settings = {} if mask is None else {"attn_mask": mask}
    result = run(
        lambda q, k: mb.scaled_dot_product_attention(query=q, key=k, value=q, **settings), X, Y, target=ct.target.iOS18
    )[0]
    torch_mask = None if mask is None else torch.from_numpy(mask) if mask.dtype == bool else t(mask)
    expected = F.scaled_dot_product_attention(t(X), t(Y), t(X), torch_mask).numpy()
    np.testing.assert_allclose(result, expected, atol=TOLERANCE)


PAIRS: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Array, Array], Any]]] = {
    "concat": (lambda a, b: mb.concat(values=[a, b], axis=1), lambda a, b: np.concatenate([a, b], 1)),
    "interleave": (
        lambda a, b: mb.concat(values=[a, b], axis=1, interleave=True),
        lambda a, b: np.stack([a, b], 2).reshape(2, 6, 4),
    ),
    "stack": (lambda a, b: mb.stack(values=[a, b], axis=1), lambda a, b: np.stack([a, b], 1)),
    "select": (lambda a, b: mb.select(cond=mb.greater(x=a, y=b), a=a, b=b), np.maximum),
    "fill_like": (lambda a, b: mb.fill_like(ref_tensor=a, value=2.0), lambda a, b: np.full(a.shape, 2.0)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_operation_that_joins(name: str) -> None:
    build, expected = PAIRS[name]
    np.testing.assert_array_equal(run(build, X, Y)[0], expected(X.astype(np.float64), Y.astype(np.float64)))


def test_split_by_number_and_by_sizes() -> None:
    halves = run(lambda a: tuple(mb.split(x=a, num_splits=2, axis=2)), X)
    uneven = run(lambda a: tuple(mb.split(x=a, split_sizes=[1, 3], axis=2)), X)
    for parts, cut in ((halves, 2), (uneven, 1)):
        np.testing.assert_array_equal(parts[0], X[..., :cut])
        np.testing.assert_array_equal(parts[1], X[..., cut:])


def test_fill_range_and_casts() -> None:
    shape = np.asarray([2, 3], np.int32)
    np.testing.assert_array_equal(run(lambda s: mb.fill(shape=s, value=1.5), shape)[0], np.full((2, 3), 1.5))
    count = np.asarray([7], np.int32)
    ranged = run(lambda n: mb.range_1d(start=1, end=mb.squeeze(x=n), step=2), count)[0]
    np.testing.assert_array_equal(ranged, [1, 3, 5])
    np.testing.assert_array_equal(run(lambda a: mb.cast(x=a, dtype="int32"), 3 * X)[0], np.trunc(3 * X))
    unsigned = run(lambda a: mb.cast(x=mb.cast(x=a, dtype="uint8"), dtype="fp32"), 60 * P)[0]
    np.testing.assert_array_equal(unsigned, np.trunc(60 * P))  # some above 127
    np.testing.assert_array_equal(run(lambda a: mb.cast(x=a, dtype="bool"), np.trunc(X))[0], np.trunc(X) != 0)


@pytest.mark.parametrize(
    ("mode", "torch_mode"), [("constant", "constant"), ("reflect", "reflect"), ("replicate", "replicate")]
)
def test_pad_equals_torch(mode: str, torch_mode: str) -> None:
    result = run(lambda a: mb.pad(x=a, pad=[1, 2, 2, 1], mode=mode, constant_val=0.5), IMAGE)[0]
    value = 0.5 if mode == "constant" else None
    np.testing.assert_array_equal(result, F.pad(t(IMAGE), (2, 1, 1, 2), mode, value).numpy())


def test_every_registered_operation_is_known_to_coremltools() -> None:
    known = {name for name in dir(mb) if not name.startswith("_")}
    assert sorted(set(OPERATIONS) - known) == []
