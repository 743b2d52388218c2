"""A flat plan (docs/reference/native-plan.md) as Python values, for readers in full precision. Every number is checked.

T context length, D vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lvm_runtime.artifact.json_text import parse_object
from lvm_runtime.errors import ArtifactError

VERSION = 1
LARGEST_LENGTH = 64
LARGEST_BUFFER = 1 << 24  # floats per window or vector
Shape = tuple[int, ...]

_VIEWS = {
    **dict.fromkeys(("linear", "relu", "sigmoid", "tanh", "gelu", "layer_norm", "normalise", "mean"), ("x",)),
    **dict.fromkeys(("add", "sub", "mul"), ("x",)),
    "mixture": ("query", "contexts"),
    "attention": ("query", "key", "value"),
}
_OPTIONAL = {"linear": ("add",), "add": ("y",), "sub": ("y",), "mul": ("y",)}
_WEIGHTS = {"linear": ("weight",), "layer_norm": ("weight", "bias")}
_OPTIONAL_WEIGHTS = {
    "linear": ("bias",),
    "mean": ("weight",),
    "mixture": ("bias",),
    **dict.fromkeys(("add", "sub", "mul"), ("y",)),
}
_OUTPUTS = {"mixture": ("out", "weights_out")}


class View(NamedTuple):
    """Element j of row r, for window b, is at b · size + offset + r · step + j of the buffer."""

    buffer: int
    offset: int
    rows: int
    step: int
    width: int

    @property
    def whole(self) -> bool:
        """Whether its rows follow each other without a gap."""
        return self.rows == 1 or self.step == self.width


class Operation(NamedTuple):
    """One operation: views that it reads and writes by role, names of weights by role, and numbers."""

    name: str
    views: dict[str, View]
    weights: dict[str, str]
    numbers: dict[str, Any]


class Buffer(NamedTuple):
    """`size` floats for each window, or for each vector of a document."""

    size: int
    vectors: bool


@dataclass(frozen=True)
class Plan:
    """What is computed from contexts `[B, T, D]` ("context"), or from a document's vectors `[N, D]` ("sequence")."""

    form: str
    length: int
    dim: int
    buffers: tuple[Buffer, ...]
    prediction: int
    attention: int | None
    operations: tuple[Operation, ...]


def read_plan(text: str, shapes: Mapping[str, Shape], source: str) -> Plan:
    """Read a plan in fp32 whose weights have `shapes`; `source` is named in errors.

    Raises ArtifactError for whatever is not as docs/reference/native-plan.md says.
    """
    return _Reader(parse_object(text.encode(), f"{source}: plan"), shapes, source).plan()


class _Reader:
    def __init__(self, plan: dict[str, Any], shapes: Mapping[str, Shape], source: str) -> None:
        self._plan, self._shapes, self._source = plan, shapes, source
        self._written: list[np.ndarray[Any, np.dtype[np.bool_]]] = []
        self._buffers: tuple[Buffer, ...] = ()
        self._length = 0

    def plan(self) -> Plan:
        values = self._plan
        self._require(values.get("version") == VERSION, f"version {values.get('version')!r}, expected {VERSION}")
        form: Any = values.get("form")
        self._require(form in ("context", "sequence"), f"form {form!r}, expected context or sequence")
        self._require(values.get("precision") == "fp32", f"precision {values.get('precision')!r}, expected fp32")
        self._length = self._number(values, "context_length", 1, LARGEST_LENGTH)
        dim = self._number(values, "dim", 1, LARGEST_BUFFER // self._length)
        entries = self._list(values, "buffers")
        self._buffers = tuple(self._buffer(entry, form) for entry in entries)
        first = Buffer(dim, True) if form == "sequence" else Buffer(self._length * dim, False)
        self._require(self._buffers[:1] == (first,), f"the first buffer is not {first}")
        self._written = [np.zeros(buffer.size, bool) for buffer in self._buffers]
        self._written[0][:] = True
        operations = tuple(self._operation(entry) for entry in self._list(values, "operations"))
        outputs: Any = values.get("outputs")
        self._require(isinstance(outputs, dict) and "prediction" in outputs, "outputs without a prediction")
        prediction = self._output(outputs, "prediction", dim)
        attention = self._output(outputs, "attention", self._length) if "attention" in outputs else None
        return Plan(form, self._length, dim, self._buffers, prediction, attention, operations)

    def _require(self, holds: Any, problem: str) -> None:
        if not holds:
            raise ArtifactError(f"{self._source}: its plan is malformed: {problem[:200]}; export it again")

    def _number(self, values: dict[str, Any], key: str, least: int, most: int) -> int:
        number = values.get(key)
        self._require(type(number) is int and least <= number <= most, f"{key} is {number!r}, not {least} to {most}")
        assert isinstance(number, int)
        return number

    def _list(self, values: dict[str, Any], key: str) -> list[Any]:
        entries = values.get(key)
        self._require(isinstance(entries, list) and 0 < len(entries) <= 10_000, f"{key} is no list of 1 to 10,000")
        assert isinstance(entries, list)
        return entries

    def _buffer(self, entry: Any, form: str) -> Buffer:
        kind = entry.get("per") if isinstance(entry, dict) else None
        self._require(kind == "window" or (kind == "vector" and form == "sequence"), f"buffer {entry!r}")
        return Buffer(self._number(entry, "size", 1, LARGEST_BUFFER), kind == "vector")

    def _output(self, outputs: dict[str, Any], key: str, size: int) -> int:
        number = self._number(outputs, key, 0, len(self._buffers) - 1)
        self._require(self._buffers[number] == Buffer(size, False), f"{key} is not a buffer of {size} per window")
        self._require(self._written[number].all(), f"{key} is not written")
        return number

    def _operation(self, entry: Any) -> Operation:
        self._require(isinstance(entry, dict) and entry.get("op") in _VIEWS, f"operation {entry!r}")
        name = entry["op"]
        weights = entry.get("weights")
        self._require(isinstance(weights, dict), f"{name}: weights are {weights!r}")
        known = {*_WEIGHTS.get(name, ()), *_OPTIONAL_WEIGHTS.get(name, ())}
        self._require(set(_WEIGHTS.get(name, ())) <= set(weights) <= known, f"{name}: weights {sorted(weights)}")
        for tensor in weights.values():
            self._require(isinstance(tensor, str) and tensor in self._shapes, f"{name}: no tensor {tensor!r}")
        outs = _OUTPUTS.get(name, ("out",))
        roles = [*_VIEWS[name], *(role for role in _OPTIONAL.get(name, ()) if role in entry)]
        views = {role: self._view(name, role, entry.get(role)) for role in (*roles, *outs)}
        reads = [views[role] for role in roles]
        per_vector = self._buffers[views["out"].buffer].vectors
        for view in reads:
            self._check_read(name, view, per_vector)
        for role in outs:
            self._check_write(name, views[role])
        numbers = {key: entry[key] for key in ("eps", "heads", "causal") if key in entry}
        operation = Operation(name, views, weights, numbers)
        self._check_shapes(operation)
        return operation

    def _view(self, name: str, role: str, numbers: Any) -> View:
        good = isinstance(numbers, list) and len(numbers) == 5 and all(type(n) is int and n >= 0 for n in numbers)
        self._require(good and max(numbers) <= LARGEST_BUFFER, f"{name}: {role} is {numbers!r}, not five numbers")
        view = View(*numbers)
        self._require(view.buffer < len(self._buffers) and view.rows and view.width, f"{name}: {role} is {numbers!r}")
        self._require(view.rows <= LARGEST_LENGTH, f"{name}: {role} has {view.rows} rows")
        return view

    def _check_read(self, name: str, view: View, per_vector: bool) -> None:
        size, vectors = self._buffers[view.buffer]
        self._require(vectors or not per_vector, f"{name}: a value per vector read from one per window")
        reach = size * self._length if vectors and not per_vector else size
        end = view.offset + (view.rows - 1) * view.step + view.width
        self._require(end <= reach, f"{name}: a view ends at {end} of {reach}")
        places = (view.offset + np.arange(view.rows)[:, None] * view.step + np.arange(view.width)).ravel() % size
        self._require(self._written[view.buffer][places].all(), f"{name}: a value is read before it is written")

    def _check_write(self, name: str, view: View) -> None:
        size = self._buffers[view.buffer].size
        end = view.offset + (view.rows - 1) * view.step + view.width
        self._require(end <= size and (view.rows == 1 or view.step >= view.width), f"{name}: out is {list(view)}")
        places = (view.offset + np.arange(view.rows)[:, None] * view.step + np.arange(view.width)).ravel()
        self._require(not self._written[view.buffer][places].any(), f"{name}: a value is written twice")
        self._written[view.buffer][places] = True

    def _check_shapes(self, operation: Operation) -> None:
        name, views, weights, numbers = operation
        shape = {role: self._shapes[tensor] for role, tensor in weights.items()}
        out = views["out"]
        x = views.get("x", out)
        same = [(view.rows, view.width) for role, view in views.items() if role in ("x", "y", "add", "out")]
        if name == "linear":
            same = [(view.rows, view.width) for role, view in views.items() if role in ("add", "out")] + [
                (x.rows, out.width)
            ]
            fits = shape["weight"] == (x.width, out.width)
            fits &= shape.get("bias") in (None, (out.width,), (out.rows * out.width,))
        elif name in ("add", "sub", "mul"):
            fits = ("y" in views) != ("y" in shape) and shape.get("y") in (None, (x.width,))
        elif name == "layer_norm":
            eps = numbers.get("eps")
            fits = shape["weight"] == shape["bias"] == (x.width,) and isinstance(eps, float) and 0 < eps < 1
        elif name == "mean":
            same = [(1, x.width), (out.rows, out.width)]
            fits = shape.get("weight") in (None, (x.rows,))
        elif name == "mixture":
            query, contexts, weights_out = views["query"], views["contexts"], views["weights_out"]
            same = [(1, contexts.width), (query.rows, query.width), (out.rows, out.width)]
            fits = (weights_out.rows, weights_out.width) == (1, contexts.rows)
            fits &= shape.get("bias") in (None, (contexts.rows,))
        elif name == "attention":
            query, key, value = views["query"], views["key"], views["value"]
            heads, causal = numbers.get("heads"), numbers.get("causal")
            same = [(query.rows, query.width), (out.rows, out.width)]
            fits = key.rows == value.rows and key.width == value.width == query.width and type(causal) is bool
            fits &= type(heads) is int and heads > 0 and query.width % heads == 0
            fits &= not causal or query.rows == key.rows
        else:
            fits = True
        self._require(fits and len(set(same)) == 1, f"{name}: shapes do not fit each other")
