"""Loops, branches and the lists that loops fill."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arithmetic import Array
from ..registry import Call, operation

MAX_ITERATIONS = 100_000


@operation("while_loop")
def while_loop(call: Call) -> tuple[Any, ...]:
    """Run the body (second block) while the condition (first block) holds; a loop without end is an error."""
    condition, body = call.op.blocks
    values = list(call["loop_vars"])
    for _ in range(MAX_ITERATIONS):
        if not bool(call.run_block(condition, values)[0]):
            return tuple(values)
        values = call.run_block(body, values)
    raise call.unsupported(f"a loop of more than {MAX_ITERATIONS} iterations")


@operation("cond")
def cond(call: Call) -> tuple[Any, ...]:
    """Run the first block if the predicate holds, else the second."""
    return tuple(call.run_block(call.op.blocks[0 if bool(call["pred"]) else 1], []))


@operation("make_list")
def make_list(call: Call) -> list[Array]:
    """A list of zeros; it grows when written past its end."""
    sizes = [int(size) if np.ndim(size) == 0 and not isinstance(size, str) else 1 for size in call["elem_shape"]]
    return [np.zeros(sizes) for _ in range(int(call.get("init_length", 0)))]


@operation("list_length")
def list_length(call: Call) -> Array:
    """Number of elements."""
    return np.asarray(len(call["ls"]))


@operation("list_read")
def list_read(call: Call) -> Array:
    """One element."""
    return call["ls"][int(call["index"])]


@operation("list_write")
def list_write(call: Call) -> list[Array]:
    """The list with one element replaced."""
    return _written(call["ls"], [int(call["index"])], [call["value"]])


@operation("list_gather")
def list_gather(call: Call) -> Array:
    """Elements stacked along a new first axis."""
    return np.stack([call["ls"][i] for i in call.ints("indices")])


@operation("list_scatter")
def list_scatter(call: Call) -> list[Array]:
    """The list with several elements replaced."""
    return _written(call["ls"], call.ints("indices"), list(call["value"]))


def _written(values: list[Array], indices: list[int], new: list[Array]) -> list[Array]:
    result = list(values)
    for index, value in zip(indices, new, strict=True):
        result.extend(np.zeros_like(value) for _ in range(index + 1 - len(result)))
        result[index] = value
    return result
