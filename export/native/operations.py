"""The operations of a plan: unread ones are left out, sums join products, and products move to where they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from .views import View


@dataclass(eq=False)
class Operation:
    """One operation: the values that it reads and writes by role, the weights by role, and numbers."""

    name: str
    inputs: dict[str, View]
    outputs: dict[str, View]
    weights: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)


def needed(operations: Sequence[Operation], results: Sequence[View]) -> list[Operation]:
    """Return the operations that `results` depend on, in order."""
    wanted = {result.buffer.root()[0] for result in results}
    kept = []
    for operation in reversed(operations):
        if wanted & {out.buffer.root()[0] for out in operation.outputs.values()}:
            kept.append(operation)
            wanted |= {view.buffer.root()[0] for view in operation.inputs.values()}
    return kept[::-1]


def late(operations: Sequence[Operation]) -> list[Operation]:
    """Move each product to just before the row operations that first read it, so that its result is still in the cache.

    Row operations that follow each other run together, and stay together.
    """
    places: list[float] = []  # of a row operation: the first of those that it runs with
    for index, operation in enumerate(operations):
        row = operation.name != "linear"
        places.append(places[-1] if row and index and operations[index - 1].name != "linear" else index)
    for index, operation in enumerate(operations):
        if operation.name == "linear":
            made = {operation.outputs["out"].buffer.root()[0]}
            later = range(index + 1, len(operations))
            readers = (i for i in later if made & {v.buffer.root()[0] for v in operations[i].inputs.values()})
            places[index] = places[next(readers, index)] - 0.5
    return [operation for _, operation in sorted(zip(places, operations, strict=True), key=lambda pair: pair[0])]


def fold_sums(operations: Sequence[Operation], tensors: dict[str, NDArray[Any]]) -> list[Operation]:
    """Fold an addition into the product before it, if nothing else reads the product.

    What is added becomes the product's bias, or its `add` if it is a value that exists before the product runs.
    """
    kept: list[Operation] = []
    for operation in operations:
        operands = list(operation.inputs.values())
        if operation.name != "add" or not any(_fold(operation, x, kept, operations, tensors) for x in operands):
            kept.append(operation)
    return kept


def _fold(
    addition: Operation,
    operand: View,
    before: list[Operation],
    operations: Sequence[Operation],
    tensors: dict[str, NDArray[Any]],
) -> bool:
    """Fold `addition` into the product that made `operand`, or into those that made its columns; say whether.

    A product adds its bias before its addend, and a document's windows add theirs last. To keep the bits alike, a
    product with an addend gets no bias.
    """
    makers = [op for op in before if any(out.buffer is operand.buffer for out in op.outputs.values())]
    readers = [op for op in operations if any(view.buffer is operand.buffer for view in op.inputs.values())]
    if not makers or readers != [addition] or any(op.name != "linear" for op in makers):
        return False
    made, width = makers[0].outputs["out"], sum(op.outputs["out"].width for op in makers)
    if made.vectors != operand.vectors or made.rows * width != operand.rows * operand.width:
        return False
    others = [view for view in addition.inputs.values() if view != operand]
    if others:
        product, at = makers[0], before.index(makers[0])
        late = {view.buffer.root()[0] for op in before[at:] for view in op.outputs.values()}
        if "add" in product.inputs or made != operand or others[0].buffer.root()[0] in late:
            return False
        product.inputs["add"] = others[0]
    elif addition.weights and not any("bias" in op.weights or "add" in op.inputs for op in makers):
        _share_out(addition.weights["y"], makers, width, tensors)
    else:
        return False
    for product in makers:
        out = product.outputs["out"]
        product.outputs = {"out": replace(out, buffer=addition.outputs["out"].buffer)}
    return True


def _share_out(name: str, makers: Sequence[Operation], width: int, tensors: dict[str, NDArray[Any]]) -> None:
    """Give each product its columns of a bias of one row, or of all rows of a window."""
    for product in makers:
        out, own = product.outputs["out"], name
        if out.width < width:
            own = f"{name}_{out.offset}"
            tensors[own] = tensors[name].reshape(-1, width)[:, out.offset : out.offset + out.width].reshape(-1)
        product.weights["bias"] = own
