"""Deployment forms as flat plans: operations on views of buffers, and the weights that they name.

A plan is data for an interpreter (docs/reference/native-plan.md). It says what is computed and where it lies; how rows
are quantised and which operations run together is the engine's affair.

B batch, N vectors of a document, T context length, D vector.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..forms.base import Form
from ..forms.int8 import Calibration
from ..forms.ops import Norm
from ..forms.rounding import Rounded, Term, columns
from .operations import Operation, fold_sums, late, needed
from .views import Buffer, View, join

VERSION = 1


class PlanOps:
    """`export.forms.ops.Ops` that write operations; products with weights are int8, everything else is float32.

    With `precision` "fp32" the weights of products are float32 too. `contexts` `[n, T, D]` are like those to come, as
    for the ONNX form in int8.
    """

    def __init__(self, form: Form, contexts: NDArray[np.float32] | None = None, *, precision: str = "int8") -> None:
        self.precision = precision
        self.operations: list[Operation] = []
        self.tensors: dict[str, NDArray[Any]] = {}
        self._names = {id(buffer): name for name, buffer in form.named_buffers()}
        self._calibration = Calibration(form, contexts)
        self._norms: dict[Buffer, Norm] = {}  # by the buffer of their output

    def linear(self, x: View, weight: Tensor, bias: View | Tensor | None = None) -> View:
        return self._linear(x, weight, bias)

    def feed_forward(self, x: View, wide: Tensor, bias: Tensor, narrow: Tensor) -> View:
        hidden = self._write("relu", {"x": self.linear(x, wide, bias)})
        return self._linear(hidden, narrow, None, positive=True)

    def norm_linear(self, x: View, norm: Norm, weight: Tensor, bias: Tensor) -> View:
        return self._linear(self.layer_norm(x, norm), weight, bias)

    def reshape(self, x: View, *shape: int) -> View:
        return x.reshape(shape)

    def split(self, x: View, sizes: Sequence[int]) -> list[View]:
        return x.split(sizes)

    def concat(self, parts: Sequence[View]) -> View:
        return parts[0] if len(parts) == 1 else join(parts)

    def rows(self, x: View, start: int, stop: int | None) -> View:
        return x.window(start)  # the engine knows how many windows there are, so `stop` is not needed

    def add(self, a: View, b: View | Tensor) -> View:
        return self._combine("add", a, b)

    def sub(self, a: View, b: View) -> View:
        return self._combine("sub", a, b)

    def mul(self, a: View, b: View | Tensor) -> View:
        return self._combine("mul", a, b)

    def sigmoid(self, x: View) -> View:
        return self._write("sigmoid", {"x": x})

    def tanh(self, x: View) -> View:
        return self._write("tanh", {"x": x})

    def gelu(self, x: View) -> View:
        return self._write("gelu", {"x": x})

    def layer_norm(self, x: View, norm: Norm) -> View:
        weights = {"weight": self._weight(norm.weight), "bias": self._weight(norm.bias)}
        out = self._write("layer_norm", {"x": x}, weights, {"eps": norm.eps})
        self._norms[out.buffer] = norm
        return out

    def normalise(self, x: View) -> View:
        return self._write("normalise", {"x": x})

    def mean(self, x: View, weights: Tensor | None = None) -> View:
        return self._write("mean", {"x": x}, {} if weights is None else {"weight": self._weight(weights)}, rows=1)

    def mixture(self, query: View, contexts: View, bias: Tensor | None = None) -> tuple[View, View]:
        mixed = self._new(contexts.width, 1, vectors=False)
        weights = self._new(contexts.rows, 1, vectors=False)
        inputs, outputs = {"query": query, "contexts": contexts}, {"out": mixed, "weights_out": weights}
        constants = {} if bias is None else {"bias": self._weight(bias)}
        self.operations.append(Operation("mixture", inputs, outputs, constants))
        return mixed, weights

    def attention(self, query: View, key: View, value: View, heads: int, barred: Tensor | None) -> View:
        inputs = {"query": query, "key": key, "value": value}
        return self._write("attention", inputs, numbers={"heads": heads, "causal": barred is not None})

    def _new(self, width: int, rows: int, *, vectors: bool) -> View:
        return View(Buffer(rows * width, vectors), width, rows, width if rows > 1 else 0, 0, vectors)

    def _like(self, view: View) -> View:
        return self._new(view.width, view.rows, vectors=view.vectors)

    def _write(
        self,
        name: str,
        inputs: dict[str, View],
        weights: dict[str, str] | None = None,
        numbers: dict[str, Any] | None = None,
        *,
        rows: int | None = None,
    ) -> View:
        """Append an operation whose result is shaped like its first input, with other `rows` if they are given."""
        first = next(iter(inputs.values()))
        out = self._new(first.width, rows or first.rows, vectors=first.vectors)
        self.operations.append(Operation(name, inputs, {"out": out}, weights or {}, numbers or {}))
        return out

    def _combine(self, name: str, a: View, b: View | Tensor) -> View:
        if isinstance(b, View):
            return self._write(name, {"x": a, "y": b})
        return self._write(name, {"x": a}, {"y": self._weight(b)})

    def _linear(self, x: View, weight: Tensor, bias: View | Tensor | None, *, positive: bool = False) -> View:
        name, out = self._names[id(weight)], self._new(weight.shape[1], x.rows, vectors=x.vectors)
        add, constant = (bias, None) if isinstance(bias, View) else (None, bias)
        label = "" if constant is None else self._names[id(constant)]
        if self.precision == "fp32":
            self.tensors.setdefault(name, weight.numpy().astype(np.float32))
            return self._product(x, out, {"weight": name} | self._bias(label, constant), add, positive)
        rounded, shared = self._calibration.round(weight), {}
        if norm := self._norms.get(x.buffer):
            centre, label = self._calibration.centre(norm), f"{name}_bias"
            shared["centre"] = self._hold(f"{self._names[id(norm.bias)]}_centre", centre)
            constant = centre @ rounded.rest + (0 if constant is None else constant)
        halves = self._halves(x, shared) if rounded.halves else None
        for start, stop in rounded.parts():
            part, addend = out.columns(start, stop), add and add.columns(start, stop)
            end = "" if part == out else f"_{start}"
            addend = self._add_diagonals(x, name, rounded, start, stop, addend)
            own = self._bias(label + end, None if constant is None else constant[start:stop])
            if residual := rounded.residual_of(start, stop):
                weights = self._int8(f"{name}{end}_left", residual) | shared
                if halves:  # the bias goes here: without one, the products of both halves share their weights in memory
                    weights, own = weights | own, {}
                addend = self._product(x, self._like(part), weights, addend, positive)
            weights = self._int8(name + end, columns(rounded.term, start, stop))
            if halves:
                self._subtract_products(halves, part, weights, own, addend)
            else:
                self._product(x, part, weights | shared | own, addend, positive)
        return out

    def _add_diagonals(
        self, x: View, name: str, rounded: Rounded, start: int, stop: int, addend: View | None
    ) -> View | None:
        """Add to `addend` what the weight's diagonals make of `x` in the columns of a part."""
        for first, diagonal in rounded.diagonals.items():
            if first <= start < first + x.width:
                held = self._hold(f"{name}_{start}_diagonal", diagonal[start - first : stop - first])
                scaled = self._write("mul", {"x": x.columns(start - first, stop - first)}, {"y": held})
                addend = scaled if addend is None else self.add(scaled, addend)
        return addend

    def _halves(self, x: View, shared: dict[str, str]) -> tuple[View, View]:
        """Return max(x, 0) and max(−x, 0), of `x` less its centre: their difference is `x`."""
        rows = self._write("sub", {"x": x}, {"y": shared["centre"]}) if shared else x
        positive = self._write("relu", {"x": rows})
        return positive, self._write("sub", {"x": positive, "y": rows})

    def _subtract_products(
        self, halves: tuple[View, View], out: View, weights: dict[str, str], bias: dict[str, str], add: View | None
    ) -> None:
        first = self._product(halves[0], self._like(out), weights | bias, add, positive=True)
        second = self._product(halves[1], self._like(out), weights, None, positive=True)
        self.operations.append(Operation("sub", {"x": first, "y": second}, {"out": out}))

    def _product(self, x: View, out: View, weights: dict[str, str], add: View | None, positive: bool) -> View:
        inputs = {"x": x} if add is None else {"x": x, "add": add}
        self.operations.append(Operation("linear", inputs, {"out": out}, weights, {"positive": positive}))
        return out

    def _int8(self, name: str, term: Term) -> dict[str, str]:
        self.tensors.setdefault(name, term[0])
        self.tensors.setdefault(f"{name}_scale", term[1])
        return {"weight": name}

    def _bias(self, name: str, constant: Tensor | None) -> dict[str, str]:
        return {} if constant is None else {"bias": self._hold(name, constant)}

    def _weight(self, tensor: Tensor) -> str:
        return self._hold(self._names[id(tensor)], tensor)

    def _hold(self, name: str, tensor: Tensor) -> str:
        self.tensors.setdefault(name, tensor.numpy().astype(np.float32).reshape(-1))
        return name


def build_plan(form: Form, ops: PlanOps, kind: str = "context") -> tuple[str, dict[str, NDArray[Any]]]:
    """Write `form` through `ops`; return the plan as JSON and the weights that it names.

    `kind` "context" reads `[B, T, D]`, "sequence" the vectors `[N, D]` of a document, one prediction per window.
    """
    length, dim = form.config.context_length, form.config.dim
    if kind == "context":
        source = Buffer(length * dim)
        results = form.contexts(ops, View(source, dim, length, dim if length > 1 else 0))
    else:
        source = Buffer(dim, vectors=True)
        results = form.sequence(ops, View(source, dim, vectors=True))
    operations = late(fold_sums(needed(ops.operations, results), ops.tensors))
    numbers: dict[Buffer, int] = {source: 0}
    for operation in operations:
        for view in (*operation.inputs.values(), *operation.outputs.values()):
            numbers.setdefault(view.buffer.root()[0], len(numbers))
    plan = {
        "version": VERSION,
        "architecture": form.config.architecture,
        "form": kind,
        "precision": ops.precision,
        "context_length": length,
        "dim": dim,
        "buffers": [{"per": "vector" if b.vectors else "window", "size": b.size} for b in numbers],
        "outputs": {name: numbers[out.buffer.root()[0]] for name, out in zip(form.outputs, results, strict=True)},
        "operations": [_entry(operation, numbers) for operation in operations],
    }
    used = {name for operation in operations for name in operation.weights.values()}
    tensors = {n: t for n, t in ops.tensors.items() if n in used or n.removesuffix("_scale") in used}
    return json.dumps(plan, separators=(",", ":")), tensors


def _entry(operation: Operation, numbers: dict[Buffer, int]) -> dict[str, Any]:
    views = operation.inputs | operation.outputs
    located = {role: _locate(view, numbers) for role, view in views.items()}
    return {"op": operation.name, **located, "weights": operation.weights, **operation.numbers}


def _locate(view: View, numbers: dict[Buffer, int]) -> list[int]:
    buffer, offset = view.buffer.root()
    return [numbers[buffer], offset + view.offset, view.rows, view.step, view.width]
