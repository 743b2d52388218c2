"""What may be handed in, what comes back, and what is refused with which words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lvm_runtime.contexts import Contexts, bad_rows, finite_float32, is_finite
from lvm_runtime.errors import InvalidInput
from tests.artifacts import some_contexts

X = some_contexts(3)


class _Dlpack:
    """Some library's array that speaks DLPack and nothing else."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


KINDS: dict[str, Any] = {
    "float32": X,
    "float64": X.astype(np.float64),
    "big-endian": X.astype(">f4"),
    "Fortran order": np.asfortranarray(X),
    "strided": np.repeat(X, 2, axis=0)[::2],
    "read-only": np.frombuffer(X.tobytes(), np.float32).reshape(X.shape),
    "lists": X.tolist(),
    "tuples": tuple(map(tuple, X.tolist())),
    "tensor": torch.from_numpy(X),
    "tensor with gradient": torch.from_numpy(X).requires_grad_(),
    "float64 tensor": torch.from_numpy(X).double(),
    "transposed tensor": torch.from_numpy(X).transpose(0, 1).contiguous().transpose(0, 1),
    "dlpack": _Dlpack(X),
}


@pytest.mark.parametrize("value", KINDS.values(), ids=KINDS.keys())
def test_every_kind_becomes_the_same_float32(value: Any) -> None:
    contexts = Contexts(value, 5, 16)
    piece = contexts.piece(0, 3)
    assert piece.dtype == np.float32
    assert piece.flags.c_contiguous
    np.testing.assert_allclose(piece, X, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("value", "atol"),
    [(X.astype(np.float16), 1e-3), (torch.from_numpy(X).half(), 1e-3), (torch.from_numpy(X).bfloat16(), 8e-3)],
    ids=["float16", "float16 tensor", "bfloat16 tensor"],
)
def test_small_floats_are_widened(value: Any, atol: float) -> None:
    np.testing.assert_allclose(Contexts(value, 5, 16).piece(0, 3), X, rtol=0, atol=atol)


def test_whole_numbers_in_lists_are_numbers() -> None:
    assert Contexts([[[1] * 16] * 5], 5, 16).piece(0, 1).sum() == 80


@pytest.mark.parametrize(
    ("value", "kind"), [(X, np.ndarray), (torch.from_numpy(X), torch.Tensor)], ids=["numpy", "torch"]
)
@pytest.mark.parametrize("single", [False, True], ids=["batch", "single"])
def test_results_come_back_in_kind(value: Any, kind: type, single: bool) -> None:
    contexts = Contexts(value[0] if single else value, 5, 16)
    result = contexts.give_back(np.ones((len(contexts), 16), np.float32))
    assert isinstance(result, kind)
    assert tuple(result.shape) == ((16,) if single else (3, 16))
    assert str(result.dtype).endswith("float32")


REFUSED: dict[str, tuple[Any, str]] = {
    "rank 1": (np.zeros(16, np.float32), r"shape \[16\], expected \[B, 5, 16\] or \[5, 16\]"),
    "rank 4": (np.zeros((1, 1, 5, 16), np.float32), r"shape \[1, 1, 5, 16\]"),
    "a number": (3.0, "got float, expected an array"),
    "wrong D": (np.zeros((2, 5, 15), np.float32), r"shape \[2, 5, 15\], expected"),
    "wrong T": (np.zeros((2, 4, 16), np.float32), r"shape \[2, 4, 16\], expected"),
    "position scalar": (np.zeros((2, 5, 17), np.float32), "position scalar"),
    "a document": (np.zeros((9, 16), np.float32), "use predict_sequence"),
    "integers": (np.zeros((2, 5, 16), np.int64), "dtype int64, expected float32"),
    "booleans": (np.zeros((2, 5, 16), bool), "dtype bool"),
    "complex": (np.zeros((2, 5, 16), np.complex64), "dtype complex64"),
    "integer tensor": (torch.zeros(2, 5, 16, dtype=torch.int32), "dtype torch.int32"),
    "objects": (np.full((2, 5, 16), None), "dtype object"),
    "text": ("five vectors", "got str"),
    "bytes": (b"five", "got bytes"),
    "nothing": (None, "got NoneType"),
    "a dict": ({"contexts": X}, "got dict"),
    "texts in lists": ([["a"] * 16] * 5, "dtype <U1"),
    "uneven lists": ([[1.0, 2.0], [1.0]], "unequal lengths"),
}


@pytest.mark.parametrize(("value", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_contexts_is_refused(value: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Contexts(value, 5, 16)


@pytest.mark.parametrize(("value", "word"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")], ids=str)
@pytest.mark.parametrize("batch", [3, 300], ids=["short", "long"])
def test_the_first_bad_row_is_named(value: float, word: str, batch: int) -> None:
    x = some_contexts(batch)
    x[batch - 1, 4, 0] = x[2, 3, 7] = value
    with pytest.raises(InvalidInput, match=rf"row 102, position 3, component 7 is {word}; expected finite"):
        finite_float32(x, first_row=100)


def test_values_beyond_float32_are_named() -> None:
    x = X.astype(np.float64)
    x[1, 0, 0] = 1e39
    with pytest.raises(InvalidInput, match=r"row 1, position 0, component 0 is 1e\+39, too large for float32"):
        finite_float32(x)


@pytest.mark.parametrize("size", [16, 9000])
def test_large_finite_values_pass(size: int) -> None:
    assert is_finite(np.full(size, 3e38, np.float32))  # whose squares overflow
    assert is_finite(np.zeros(size, np.float32))


def test_bad_rows_are_found() -> None:
    x = some_contexts(6)
    x[1, 0, 0], x[4, 4, 15] = np.nan, np.inf
    assert bad_rows(x).tolist() == [1, 4]
    assert bad_rows(X).tolist() == []
