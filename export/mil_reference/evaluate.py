"""Walk a MIL program and compute it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.errors import InvalidInput

from . import ops  # noqa: F401  (fills the table)
from .arithmetic import Arithmetic
from .program import block_operations, dtype_of, function_named
from .registry import OPERATIONS, Call, UnsupportedOperation

Values = dict[Any, Any]  # MIL variable -> its value


class Evaluator:
    """One function of a program in one mode; constants are unpacked once, however often it is called.

    `function` is a name, or None for the only one or "main". Raises UnsupportedOperation, with all their names, if
    the function uses operations that are not known here.
    """

    def __init__(self, program: Any, *, mode: str = "exact", function: str | None = None) -> None:
        self.arithmetic = Arithmetic(mode)
        self.name, self.function = function_named(program, function)
        _require_known(self.function)
        self._constants: Values = {}

    @property
    def inputs(self) -> dict[str, Any]:
        """The function's inputs: name to MIL variable."""
        return self.function.inputs

    def check(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Raise InvalidInput unless names and shapes are those that the function declares."""
        for name, variable in self.inputs.items():
            _check_input(name, variable, inputs)
        if unknown := sorted(set(inputs) - set(self.inputs)):
            raise InvalidInput(f"unknown input {unknown[0]!r}; the program takes {', '.join(self.inputs)}")

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return every output by name, floating ones in float64, for `inputs` by name.

        Raises InvalidInput if names or shapes are not those that the function declares.
        """
        self.check(inputs)
        values: Values = {v: self.arithmetic.rounded(inputs[n], dtype_of(v)) for n, v in self.inputs.items()}
        with np.errstate(all="ignore"):  # infinities and NaN are results here, for the caller to judge
            self._run(self.function.operations, values)
        return {variable.name: values[variable] for variable in self.function.outputs}

    def _run(self, operations: Iterable[Any], values: Values) -> None:
        for op in operations:
            if op.outputs[0] in self._constants:
                values.update((output, self._constants[output]) for output in op.outputs)
                continue
            results = self._evaluate(op, values)
            values.update(results)
            if op.op_type == "const" or op.op_type.startswith("constexpr_"):
                self._constants.update(results)

    def _evaluate(self, op: Any, values: Values) -> Values:
        def run_block(block: Any, arguments: list[Any]) -> list[Any]:
            inner = values | dict(zip(block.inputs, arguments, strict=True))
            self._run(block.operations, inner)
            return [inner[output] for output in block.outputs]

        arguments = {name: _resolve(value, values) for name, value in op.inputs.items()}
        result = OPERATIONS[op.op_type](Call(op, arguments, self.arithmetic, dtype_of(op.outputs[0]), run_block))
        results = result if isinstance(result, tuple) else (result,)
        return {o: self._typed(r, dtype_of(o)) for o, r in zip(op.outputs, results, strict=True)}

    def _typed(self, value: Any, dtype: str) -> Any:
        return value if isinstance(value, str | list) or dtype == "str" else self.arithmetic.rounded(value, dtype)


def _resolve(value: Any, values: Values) -> Any:
    if isinstance(value, tuple | list):
        return [_resolve(item, values) for item in value]
    if value is None or value not in values:  # an optional argument, or a constant that coremltools holds itself
        return getattr(value, "val", None)
    return values[value]


def _check_input(name: str, variable: Any, inputs: Mapping[str, NDArray[Any]]) -> None:
    if name not in inputs:
        raise InvalidInput(f"missing input {name!r}; got {', '.join(inputs) or 'none'}")
    array = np.asarray(inputs[name])
    if array.dtype.kind not in "fiub":
        raise InvalidInput(f"input {name!r} holds {array.dtype}, expected numbers")
    shape = variable.shape  # symbolic sizes are not integers
    fits = len(shape) == array.ndim and all(
        have == want for have, want in zip(array.shape, shape, strict=True) if isinstance(want, int | np.integer)
    )
    if not fits:
        raise InvalidInput(f"input {name!r} has shape {array.shape}, the program takes ({', '.join(map(str, shape))})")


def _require_known(function: Any) -> None:
    if unknown := sorted({op.op_type for op in block_operations(function)} - set(OPERATIONS)):
        raise UnsupportedOperation(
            f"the program uses operations that the evaluator does not know: {', '.join(unknown)}"
        )
