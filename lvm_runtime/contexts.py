"""What callers hand in and what they get back: any float array, list or tensor as float32 windows.

Conversion is lazy: `Contexts` keeps the caller's array as it is, and `rows` converts and checks the rows
that are about to run, so a float64 array or a memory-mapped file larger than memory costs one slice at a time.

B batch, T context length, D vector.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.errors import InvalidInput, one_line

Array = NDArray[np.float32]

UNIT_NORM = 1.01
"""The `largest_norm` of a model that was trained on vectors divided by their lengths, and of no other. Such a model
takes none shorter than `LEAST_UNIT_NORM` either, since it never saw others: a GRU that reached 0.46 was at 0.36 on
longer ones, and an AMN that reached 0.607 at 0.585 where the norm was 0.5. Rounding to float16 stays far below."""

LEAST_UNIT_NORM = 0.99

_DOT_LIMIT = 8192  # longer dot products start BLAS threads, which would compete with the backend's
_CLEARLY = 0.99  # share of a bound up to which the rounding of a sum over all vectors cannot matter


class Contexts:
    """A caller's input as an array `[B, T, D]` of some float type, and how to hand results back in kind.

    `single` is True for one context given as `[T, D]`; no vector may have a norm over `largest_norm`. Raises
    InvalidInput for a wrong rank, T, D or dtype.
    """

    __slots__ = ("_largest_norm", "_wrap", "array", "single")

    def __init__(self, value: Any, context_length: int, dim: int, largest_norm: float) -> None:
        self._largest_norm = largest_norm
        array, self._wrap = as_float_array(value, "contexts")
        self.single = array.ndim == 2
        if array.ndim not in (2, 3) or array.shape[-2:] != (context_length, dim):
            raise InvalidInput(
                f"contexts have shape {list(array.shape)}, expected [B, {context_length}, {dim}] or "
                f"[{context_length}, {dim}]{shape_hint(array.shape, context_length, dim)}"
            )
        self.array: NDArray[Any] = array[None] if self.single else array

    def __len__(self) -> int:
        return len(self.array)

    def float32(self, start: int, stop: int) -> Array:
        """Return rows start to stop as `rows` does, whatever they hold."""
        return to_float32(self.array[start:stop])

    def refuse(self, start: int, rows: Array) -> None:
        """Raise InvalidInput, which names the first bad row, if one of `rows` is bad; `float32` returned them."""
        refuse(self.array[start : start + len(rows)], rows, self._largest_norm, start)

    def rows(self, start: int, stop: int) -> Array:
        """Return rows start to stop as contiguous float32 `[b, T, D]`; InvalidInput names the first bad row."""
        return usable_float32(self.array[start:stop], self._largest_norm, first_row=start)

    def copy(self) -> Array:
        """Return all rows as `rows` does, and never as a view of the caller's memory."""
        return usable_float32(self.array, self._largest_norm, copy=True)

    def give_back(self, result: Array) -> Any:
        """Return `result` in the kind of the input: float32 numpy, or a tensor on the input's device."""
        if self.single:
            result = result[0]
        return result if self._wrap is None else self._wrap(result)


def as_float_array(value: Any, name: str) -> tuple[NDArray[Any], Callable[[Array], Any] | None]:
    """Return `value` as a numpy array of float16, 32 or 64, and a function that turns results into its kind.

    The function is None for what numpy already is. Raises InvalidInput for anything that does not hold floats.
    """
    wrap = None
    if isinstance(value, np.ndarray):
        if hasattr(value, "mask"):
            raise InvalidInput(f"{name}: got a masked array, whose mask would be lost; fill it, or leave such rows out")
        array = value
    elif _is_tensor(value):
        array, wrap = _from_tensor(value, name)
    elif hasattr(value, "__dlpack__"):
        array = _from_dlpack(value, name)
    elif isinstance(value, list | tuple):
        array = _from_sequence(value, name)
    else:
        raise InvalidInput(
            f"{name}: got {type(value).__name__}, expected an array, a tensor or nested lists of numbers"
        )
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise InvalidInput(f"{name} have dtype {array.dtype}, expected float32 (or float16, float64)")
    return array, wrap


def usable_float32(array: NDArray[Any], largest_norm: float, *, first_row: int = 0, copy: bool = False) -> Array:
    """Return `array` `[b, …, D]` as contiguous, aligned float32 if every vector is finite and not too long.

    `first_row` is added to the row number in the error; with `copy` the result never shares memory with `array`.
    Raises InvalidInput for NaN, infinity, and a norm over `largest_norm`.
    """
    result = to_float32(array, copy=copy)
    refuse(array, result, largest_norm, first_row)
    return result


def to_float32(array: NDArray[Any], *, copy: bool = False) -> Array:
    """Return `array` as contiguous, aligned float32, whatever it holds; with `copy` never as a view of it."""
    with np.errstate(all="ignore"):  # the caller may have turned overflows into errors
        result: Array = np.array(array, np.float32, order="C") if copy else np.ascontiguousarray(array, np.float32)
    return result if result.flags.aligned else result.copy()  # not so: a view of bytes, such as those of a request


def refuse(array: NDArray[Any], converted: Array, largest_norm: float, first_row: int) -> None:
    """Raise InvalidInput, which names the first bad row, if `array` `[b, …, D]`, in float32 `converted`, has one."""
    if not is_usable(converted, largest_norm):
        raise InvalidInput(describe_bad_row(array, converted, first_row, largest_norm))


def is_usable(array: Array, largest_norm: float) -> bool:
    """Say whether `bad_rows` finds none in a contiguous array `[b, …, D]`, cheaply.

    If x·x of the whole array is clearly within the bound of one vector, each of them is, and none is NaN or infinite.
    That takes a fifth of the time of looking at every value; only where it fails does each vector count. (`vdot` and
    `einsum` overflow in silence, `dot` and `vecdot` warn; turning that off takes longer than the product of a few
    contexts.)
    """
    if largest_norm == UNIT_NORM:  # of the shortest vector the sum says nothing
        vectors = array.reshape(-1, array.shape[-1])
        squares = np.einsum("ij,ij->i", vectors, vectors)
        return bool(((squares >= LEAST_UNIT_NORM**2) & (squares <= UNIT_NORM**2)).all())
    if array.size <= _DOT_LIMIT:
        square = np.vdot(array, array)
    else:
        flat = array.reshape(-1)
        square = np.einsum("i,i->", flat, flat)
    return float(square) <= _CLEARLY * largest_norm * largest_norm or not len(bad_rows(array, largest_norm))


def bad_rows(array: NDArray[Any], largest_norm: float) -> NDArray[np.intp]:
    """Return the numbers of the rows `[b, …, D]` with a vector that is not finite in float32, or of another length.

    It has norm `largest_norm` at most, and for `UNIT_NORM` at least `LEAST_UNIT_NORM`.
    """
    if not array.size:
        return np.empty(0, np.intp)
    with np.errstate(all="ignore"):
        vectors = np.asarray(array, dtype=np.float32).reshape(-1, array.shape[-1])
        squares = _squares(vectors)
        least = LEAST_UNIT_NORM if largest_norm == UNIT_NORM else 0.0
        bad = np.flatnonzero(~((least**2 <= squares) & (squares <= largest_norm**2)))
    return np.unique(bad // (len(vectors) // len(array)))


def _squares(rows: Array) -> Array:
    """Return x·x of each row `[b, k]`."""
    if hasattr(np, "vecdot") and rows.shape[1] <= _DOT_LIMIT:  # NumPy 2; twice as fast
        return np.vecdot(rows, rows)
    return np.einsum("ij,ij->i", rows, rows)


@np.errstate(all="ignore")
def describe_bad_row(original: NDArray[Any], converted: Array, first_row: int, largest_norm: float) -> str:
    """Return the message for the first bad row of `converted` `[b, …, D]`, which is `original` in float32."""
    row = int(bad_rows(converted, largest_norm)[0])
    bad = np.argwhere(~np.isfinite(converted[row]))
    if len(bad):
        place = tuple(bad[0].tolist())
        value = float(original[row][place])
        kind = f"{value:g}, too large for float32" if np.isfinite(value) else f"{value:g}"
        place, fault, expected = place[:-1], f", component {place[-1]} is {kind}", "finite values"
    else:
        norms = np.linalg.norm(np.asarray(original[row], np.float64), axis=-1)
        unit = largest_norm == UNIT_NORM
        off, most = (np.abs(norms - 1), 1 - LEAST_UNIT_NORM) if unit else (norms, largest_norm)
        place = tuple(np.argwhere(off >= min(most, off.max()))[0].tolist())
        fault, expected = f" has norm {norms[place]:.3g}", f"at most {largest_norm:g}"
        if unit:
            expected = "1: the model was trained on vectors divided by their lengths; divide these too"
    where = f"row {first_row + row}" + "".join(f", position {i}" for i in place)
    return f"{where}{fault}; expected {expected}"


def shape_hint(shape: tuple[int, ...], context_length: int, dim: int) -> str:
    """Return what to add to the error for a wrong shape where a usual mistake explains it."""
    if len(shape) in (2, 3) and shape[-1] == dim + 1 and shape[-2] == context_length:
        return "; a position scalar appended to the vectors is not supported"
    if len(shape) == 2 and shape[1] == dim:
        return "; for a document's vectors [N, D] use predict_sequence"
    return ""


def _is_tensor(value: Any) -> bool:
    """Say whether `value` is a tensor, of a subclass too, without importing torch."""
    kind = getattr(sys.modules.get("torch"), "Tensor", None)
    return kind is not None and isinstance(value, kind)


def _from_tensor(tensor: Any, name: str) -> tuple[NDArray[Any], Callable[[Array], Any]]:
    import torch  # the caller has it loaded: this is its tensor

    if not tensor.is_floating_point():
        raise InvalidInput(f"{name} have dtype {tensor.dtype}, expected a floating-point tensor")
    device = tensor.device
    try:
        host = tensor.detach().to("cpu").resolve_neg()
        if host.dtype not in (torch.float16, torch.float32, torch.float64):
            host = host.float()
        array = host.numpy()
    except (RuntimeError, TypeError) as error:  # sparse, nested, on the device "meta"
        reason = str(error).strip().partition("\n")[0]
        raise InvalidInput(
            f"{name}: this tensor cannot be read as an array ({reason}); expected a dense one"
        ) from error
    return array, lambda result: torch.from_numpy(result).to(device)


def _from_dlpack(value: Any, name: str) -> NDArray[Any]:
    try:
        return np.from_dlpack(value)
    except Exception as error:  # whatever the other library raises
        raise InvalidInput(f"{name}: {type(value).__name__} cannot be read through DLPack ({error})") from error


def _holds_masks(value: Any) -> bool:
    """Say whether a masked array is in nested lists; rows of numbers are not looked at one by one."""
    if not isinstance(value, list | tuple):
        return hasattr(value, "mask")
    return bool(value) and not isinstance(value[0], float | int) and any(map(_holds_masks, value))


def holds_booleans(value: Any, array: NDArray[Any]) -> bool:
    """Say whether a boolean is in the nested lists `value`, which numpy made numbers: `array`.

    numpy makes a 0 or a 1 of a boolean. Lists without either, as most are, are not searched item by item, and of lists
    of arrays only the dtype of each is looked at.
    """
    first = value
    while isinstance(first, list | tuple) and first:
        first = first[0]
    if array.dtype.kind not in "iuf":
        return False
    return bool(getattr(first, "ndim", 0) or ((array == 0) | (array == 1)).any()) and _has_boolean(value)


def _has_boolean(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return not set(map(type, value)) <= {float, int} and any(map(_has_boolean, value))
    dtype = getattr(value, "dtype", "")
    return isinstance(value, bool) or (getattr(dtype, "kind", "") or str(dtype)) in ("b", "torch.bool")


def _from_sequence(value: Any, name: str) -> NDArray[Any]:
    try:
        masks = _holds_masks(value)
        array = None if masks else np.asarray(value)
    except ValueError as error:
        raise InvalidInput(f"{name}: nested lists of unequal lengths; expected a full array of numbers") from error
    except MemoryError:
        raise
    except Exception as error:  # lists without end, and whatever the objects in them raise, such as tensors of bfloat16
        raise InvalidInput(f"{name}: these lists cannot be read as an array ({one_line(error, 200)})") from error
    if array is None:
        raise InvalidInput(f"{name}: got masked arrays, whose masks would be lost; fill them, or leave such rows out")
    if holds_booleans(value, array):
        raise InvalidInput(f"{name}: got True or False among the numbers; expected numbers only")
    # whole numbers in a list are numbers, in an array they are a sign of the wrong array
    return array.astype(np.float64) if array.dtype.kind in "iu" and not _holds_arrays(value) else array


def _holds_arrays(value: Any) -> bool:
    """Say whether an array or a tensor is in nested lists."""
    return any(map(_holds_arrays, value)) if isinstance(value, list | tuple) else getattr(value, "ndim", 0) > 0
