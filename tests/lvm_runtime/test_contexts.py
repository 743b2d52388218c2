"""What may be handed in, what comes back, and what is refused with which words."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch

from lvm_runtime.contexts import Contexts, bad_rows, is_usable, usable_float32
from lvm_runtime.errors import InvalidInput
from tests.artifacts import some_contexts

X = some_contexts(3)
NORM = 1e6


def _with(row: int, value: float, *, before: float = 1.0) -> Any:
    """Return three contexts with `value` in the last vector of `row`, and `before` in that of row 0."""
    x = some_contexts(3)
    x[0, 4, 9], x[row, 4, 9] = before, value
    return x


class _Dlpack:
    """Some library's array that speaks DLPack and nothing else."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


class Tagged(torch.Tensor):
    """A tensor of somebody's own kind."""


KINDS: dict[str, Any] = {
    "float32": X,
    "float64": X.astype(np.float64),
    "big-endian": X.astype(">f4"),
    "Fortran order": np.asfortranarray(X),
    "strided": np.repeat(X, 2, axis=0)[::2],
    "read-only": np.frombuffer(X.tobytes(), np.float32).reshape(X.shape),
    "at any byte": np.frombuffer(b"_" + X.tobytes(), np.float32, offset=1).reshape(X.shape),
    "float64 at any byte": np.frombuffer(b"_" + X.astype(np.float64).tobytes(), offset=1).reshape(X.shape),
    "lists": X.tolist(),
    "tuples": tuple(map(tuple, X.tolist())),
    "tensor": torch.from_numpy(X),
    "tensor with gradient": torch.from_numpy(X).requires_grad_(),
    "float64 tensor": torch.from_numpy(X).double(),
    "transposed tensor": torch.from_numpy(X).transpose(0, 1).contiguous().transpose(0, 1),
    "negated view": torch.complex(torch.zeros(X.shape), -torch.from_numpy(X)).conj().imag,
    "dlpack": _Dlpack(X),
}


@pytest.mark.parametrize("value", KINDS.values(), ids=KINDS.keys())
def test_every_kind_becomes_the_same_float32(value: Any) -> None:
    contexts = Contexts(value, 5, 16, NORM)
    rows = contexts.rows(0, 3)
    assert rows.dtype == np.float32
    assert rows.flags.c_contiguous
    assert rows.flags.aligned
    np.testing.assert_allclose(rows, X, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("value", "atol"),
    [(X.astype(np.float16), 1e-3), (torch.from_numpy(X).half(), 1e-3), (torch.from_numpy(X).bfloat16(), 8e-3)],
    ids=["float16", "float16 tensor", "bfloat16 tensor"],
)
def test_small_floats_are_widened(value: Any, atol: float) -> None:
    np.testing.assert_allclose(Contexts(value, 5, 16, NORM).rows(0, 3), X, rtol=0, atol=atol)


def test_lists_are_read_where_torch_was_never_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    np.testing.assert_allclose(Contexts(X.tolist(), 5, 16, NORM).rows(0, 3), X, rtol=0, atol=1e-7)


def test_whole_numbers_in_lists_are_numbers() -> None:
    assert Contexts([[[1] * 16] * 5], 5, 16, NORM).rows(0, 1).sum() == 80


@pytest.mark.parametrize(
    ("value", "kind"),
    [(X, np.ndarray), (torch.from_numpy(X), torch.Tensor), (torch.from_numpy(X).as_subclass(Tagged), torch.Tensor)],
    ids=["numpy", "torch", "subclass"],
)
@pytest.mark.parametrize("single", [False, True], ids=["batch", "single"])
def test_results_come_back_in_kind(value: Any, kind: type, single: bool) -> None:
    contexts = Contexts(value[0] if single else value, 5, 16, NORM)
    result = contexts.give_back(np.ones((len(contexts), 16), np.float32))
    assert isinstance(result, kind)
    assert tuple(result.shape) == ((16,) if single else (3, 16))
    assert str(result.dtype).endswith("float32")


class Broken:
    """An array of a library with a fault."""

    def __dlpack__(self, **_: Any) -> Any:
        raise KeyError("device")

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)

REFUSED: dict[str, tuple[Any, str]] = {
    "rank 1": (np.zeros(16, np.float32), r"shape \[16\], expected \[B, 5, 16\] or \[5, 16\]"),
    "rank 1 of D + 1": (np.zeros(17, np.float32), r"shape \[17\], expected \[B, 5, 16\] or \[5, 16\]$"),
    "rank 4": (np.zeros((1, 1, 5, 16), np.float32), r"shape \[1, 1, 5, 16\], expected .* or \[5, 16\]$"),
    "rank 4 of D + 1": (np.zeros((1, 1, 5, 17), np.float32), r"shape \[1, 1, 5, 17\], expected .* or \[5, 16\]$"),
    "a number": (3.0, "got float, expected an array"),
    "wrong D": (np.zeros((2, 5, 15), np.float32), r"shape \[2, 5, 15\], expected .* or \[5, 16\]$"),
    "wrong T": (np.zeros((2, 4, 16), np.float32), r"shape \[2, 4, 16\], expected .* or \[5, 16\]$"),
    "wrong T and D + 1": (np.zeros((2, 4, 17), np.float32), r"shape \[2, 4, 17\], expected .* or \[5, 16\]$"),
    "position scalar": (
        np.zeros((2, 5, 17), np.float32),
        "; a position scalar appended .* is not supported$",
    ),
    "position scalar in one context": (np.zeros((5, 17), np.float32), "; a position scalar appended .* supported$"),
    "a document": (np.zeros((9, 16), np.float32), "use predict_sequence"),
    "integers": (np.zeros((2, 5, 16), np.int64), "dtype int64, expected float32"),
    "booleans": (np.zeros((2, 5, 16), bool), "dtype bool"),
    "True among floats in lists": ([[[0.5] * 16] * 4 + [[0.5] * 15 + [True]]], "got True or False among the numbers"),
    "False among whole numbers": ([[2] * 15 + [False]] * 5, "got True or False among the numbers"),
    "booleans in an array among others": ([np.full(16, 0.5)] * 4 + [np.ones(16, bool)], "got True or False among"),
    "a boolean of numpy": ([[0.5] * 15 + [np.True_]] * 5, "got True or False among the numbers"),
    "complex": (np.zeros((2, 5, 16), np.complex64), "dtype complex64"),
    "integer tensor": (torch.zeros(2, 5, 16, dtype=torch.int32), "dtype torch.int32"),
    "objects": (np.full((2, 5, 16), None), "dtype object"),
    "text": ("five vectors", "got str"),
    "bytes": (b"five", "got bytes"),
    "a masked array": (np.ma.masked_invalid(X), "got a masked array"),
    "masked arrays in lists": ([[np.ma.masked_invalid(X[0, 0])] * 5], "got masked arrays"),
    "a sparse tensor": (torch.from_numpy(X[0]).to_sparse(), "cannot be read as an array .*; expected a dense one"),
    "a tensor without data": (torch.empty(2, 5, 16, device="meta"), "cannot be read as an array .*no data"),
    "a broken __dlpack__": (Broken(), "Broken cannot be read through DLPack"),
    "nothing": (None, "got NoneType"),
    "a dict": ({"contexts": X}, "got dict"),
    "texts in lists": ([["a"] * 16] * 5, "dtype <U1"),
    "tensors of bfloat16 in a list": ([torch.zeros(16).bfloat16()] * 5, "cannot be read as an array .*BFloat16"),
    "tensors with gradients in a list": ([torch.zeros(16).requires_grad_()] * 5, "cannot be read as an array .*grad"),
    "a list that holds itself": (ENDLESS, "cannot be read as an array .*recursion"),
    "arrays of integers in a list": ([np.ones((5, 16), np.int8)] * 2, "dtype int8"),
    "tensors of integers in lists": ([[torch.ones(16, dtype=torch.int32)] * 5], "dtype int32"),
    "uneven lists": ([[1.0, 2.0], [1.0]], "unequal lengths"),
}


@pytest.mark.parametrize(("value", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_contexts_is_refused(value: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=f"^contexts.*{message}"):
        Contexts(value, 5, 16, NORM)


@pytest.mark.parametrize(("value", "word"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")], ids=str)
@pytest.mark.parametrize("batch", [3, 300], ids=["short", "long"])
def test_the_first_bad_row_is_named(value: float, word: str, batch: int) -> None:
    x = some_contexts(batch)
    x[batch - 1, 4, 0] = x[2, 3, 7] = value
    with pytest.raises(InvalidInput, match=rf"row 102, position 3, component 7 is {word}; expected finite"):
        usable_float32(x, NORM, first_row=100)
    with pytest.raises(InvalidInput, match=rf"row 1, component 7 is {word}; expected finite"):
        usable_float32(x[2, 2:], NORM)


def test_values_beyond_float32_are_named() -> None:
    x = X.astype(np.float64)
    x[1, 0, 0] = 1e39
    with pytest.raises(InvalidInput, match=r"row 1, position 0, component 0 is 1e\+39, too large for float32"):
        usable_float32(x, NORM)


@pytest.mark.parametrize("batch", [1, 300], ids=["short", "long"])
def test_the_norm_of_each_vector_counts_and_not_their_sum(batch: int) -> None:
    x = np.zeros((batch, 5, 16), np.float32)
    x[..., 3] = NORM
    assert is_usable(x, NORM)
    assert bad_rows(x, NORM).tolist() == []
    x[batch - 1, 2, 7] = NORM / 30
    assert not is_usable(x, NORM)
    assert bad_rows(x, NORM).tolist() == [batch - 1]


TOO_LONG: dict[str, tuple[Any, str]] = {
    "a batch x 1e20": (some_contexts(3) * np.float32(1e20), "row 0, position 0 has norm 1e\\+20"),
    "one component": (_with(2, 1e20), r"row 2, position 4 has norm 1e\+20"),
    "a row of 1e37": (_with(1, 1e37), r"row 1, position 4 has norm 1e\+37"),
    "the first of two": (_with(2, np.nan, before=1e7), r"row 0, position 4 has norm 1e\+07"),
}


@pytest.mark.parametrize(("contexts", "message"), TOO_LONG.values(), ids=TOO_LONG.keys())
def test_a_vector_that_is_too_long_is_named(contexts: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message + ".*expected at most 1e\\+06"):
        Contexts(contexts, 5, 16, NORM).rows(0, 3)


NEAR_ZERO = np.geomspace(1e-300, 1.0, 80).reshape(1, 5, 16)
STRICT: dict[str, tuple[Any, str | None]] = {
    "tiny float64": (NEAR_ZERO, None),
    "tiny beside large": (np.where(NEAR_ZERO < 1e-20, NEAR_ZERO, 1e5).astype(np.float32), None),
    "beyond float32": (NEAR_ZERO * 1e300, "too large for float32"),
    "too long": (np.where(NEAR_ZERO < 1e-20, NEAR_ZERO, 1e10), "has norm"),
    "signalling NaN": (np.full((1, 5, 16), 0x7FF4 << 48, np.uint64).view(np.float64), "is nan"),
}


@pytest.mark.parametrize(("value", "message"), STRICT.values(), ids=STRICT.keys())
def test_a_caller_whose_numpy_raises_gets_the_same(value: Any, message: str | None) -> None:
    with np.errstate(all="raise"):
        if message is None:
            assert len(Contexts(value, 5, 16, NORM).rows(0, 1)) == 1
            return
        with pytest.raises(InvalidInput, match=message):
            Contexts(value, 5, 16, NORM).rows(0, 1)


def test_bad_rows_are_found() -> None:
    x = some_contexts(6)
    x[1, 0, 0], x[2, 1, 1], x[4, 4, 15] = np.nan, 2e6, np.inf
    assert bad_rows(x, NORM).tolist() == [1, 2, 4]
    assert bad_rows(x[:, 0], NORM).tolist() == [1]
    assert bad_rows(X, NORM).tolist() == []
    assert bad_rows(X[:0], NORM).tolist() == []
    half = np.zeros((2, 5, 16), np.float16)
    half[1, 3, :2] = 100, 1
    assert bad_rows(half, 100).tolist() == [1]  # float16 would round the sum 10,001 to 10,000


def test_a_vector_at_the_very_bound_counts_alone_as_among_others() -> None:
    x = some_contexts(4000, 24)
    x *= np.float32(NORM) / np.linalg.norm(x, axis=2, keepdims=True)  # of which some are longer by a rounding
    x[:, 1:] = 0
    bad = set(bad_rows(x, NORM).tolist())
    assert 100 < len(bad) < 3900
    assert {row for row in range(len(x)) if not is_usable(x[row], NORM)} == bad


@pytest.mark.parametrize("numpy", [1, 2])
@pytest.mark.parametrize("dim", [16, 9000])
def test_bad_rows_are_found_by_any_numpy_and_of_any_length(
    dim: int, numpy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if numpy == 1:
        monkeypatch.delattr(np, "vecdot", raising=False)
    x = np.zeros((3, 2, dim), np.float32)
    x[1, 1, :2] = NORM
    x[2, 0, -1] = NORM
    assert bad_rows(x, NORM).tolist() == [1]


def test_a_copy_is_the_callers_no_longer() -> None:
    x = some_contexts(1)
    for kind in (np.float32, np.float64):
        copy = Contexts(x.astype(kind), 5, 16, NORM).copy()
        assert copy.dtype == np.float32
        np.testing.assert_array_equal(copy, x)
    assert not np.shares_memory(Contexts(x, 5, 16, NORM).copy(), x)
    assert Contexts(np.asfortranarray(X), 5, 16, NORM).copy().flags.c_contiguous
