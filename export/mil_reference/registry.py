"""What an operation's evaluator gets, and the table of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lvm_runtime.errors import LvmError

from .arithmetic import Arithmetic


class UnsupportedOperation(LvmError):
    """A program uses an operation, or a setting of one, that the evaluator does not know."""


@dataclass(frozen=True, slots=True)
class Call:
    """One operation with its arguments evaluated; absent optional ones are None.

    `dtype` is the declared type of the first output; `run_block(block, values)` evaluates a nested block.
    """

    op: Any
    arguments: dict[str, Any]
    arithmetic: Arithmetic
    dtype: str
    run_block: Callable[[Any, list[Any]], list[Any]]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an optional argument."""
        value = self.arguments.get(name)
        return default if value is None else value

    def ints(self, name: str, default: Any = None) -> list[int]:
        """Return an argument as a list of Python integers."""
        value = self.get(name, default)
        return [int(v) for v in (value.reshape(-1) if hasattr(value, "reshape") else value)]

    def axes(self, rank: int) -> tuple[int, ...]:
        """Return the argument `axes` counted from the front; all of them where none are given."""
        return tuple(axis % rank for axis in self.ints("axes", range(rank)))

    def unsupported(self, what: str) -> UnsupportedOperation:
        """Return the error for a setting that the evaluator does not know."""
        return UnsupportedOperation(f"operation {self.op.name} ({self.op.op_type}): {what} is not supported here")


Operation = Callable[[Call], Any]
OPERATIONS: dict[str, Operation] = {}


def operation(*names: str) -> Callable[[Operation], Operation]:
    """Register an evaluator under the names of its operations; it returns one value, or a tuple of them."""

    def register(function: Operation) -> Operation:
        for name in names:
            assert name not in OPERATIONS, name
            OPERATIONS[name] = function
        return function

    return register
