"""Deployment forms as ONNX graphs, written node by node.

Written directly, a graph has no shape arithmetic, no dead weights and the names of the form's own weights.
Nodes are standard ONNX (opset 21) wherever onnxruntime has a kernel as fast as its own operators.

B batch, T context length, D vector, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from ..forms.base import Form
from ..forms.ops import Norm

OPSET = 21
IR_VERSION = 10
CONTRIB = "com.microsoft"
PRODUCER = "lvm_runtime"
BARRED = -1e30
"""Added to the score of a barred position by runtimes that do not leave it out. OpenVINO adds -10,000 unless it is told
otherwise, and scores of vectors of norm 500 exceed that."""


@dataclass(frozen=True, slots=True)
class Node:
    """One output of a node: its name, and its shape with −1 for the rows."""

    name: str
    shape: tuple[int, ...]

    @property
    def width(self) -> int:
        """Size of the last axis."""
        return self.shape[-1]


class GraphOps:
    """`export.forms.ops.Ops` that append nodes to an ONNX graph in float32."""

    def __init__(self, form: Form) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: dict[str, onnx.TensorProto] = {}
        self._unshaped: dict[str, Node] = {}
        self._names = {id(buffer): name for name, buffer in form.named_buffers()}

    def node(
        self, op: str, inputs: Sequence[str], shape: Sequence[int], *, domain: str = "", **attributes: Any
    ) -> Node:
        """Append a node with one output of `shape`."""
        return self.nodes_out(op, inputs, [shape], domain=domain, **attributes)[0]

    def nodes_out(
        self, op: str, inputs: Sequence[str], shapes: Sequence[Sequence[int]], *, domain: str = "", **attributes: Any
    ) -> list[Node]:
        """Append a node with one output per shape."""
        stem = f"{op}_{len(self.nodes)}"
        outputs = [stem if len(shapes) == 1 else f"{stem}_{i}" for i in range(len(shapes))]
        self.nodes.append(helper.make_node(op, list(inputs), outputs, name=stem, domain=domain, **attributes))
        return [Node(name, tuple(shape)) for name, shape in zip(outputs, shapes, strict=True)]

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Hold `value` as the initialiser `name`, once."""
        if name not in self.initialisers:
            self.initialisers[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def integers(self, *values: int) -> str:
        """Hold a short list of integers, such as a shape."""
        return self.constant("i_" + "_".join(map(str, values)).replace("-", "m"), np.array(values, np.int64))

    def weight(self, tensor: Tensor) -> str:
        """Hold one of the form's weights in float32 under its own name."""
        return self.constant(self._names[id(tensor)], tensor.numpy().astype(np.float32))

    def operand(self, value: Node | Tensor) -> str:
        """Return the name of a node's output or of a constant weight."""
        return value.name if isinstance(value, Node) else self.weight(value)

    def linear(self, x: Node, weight: Tensor, bias: Node | Tensor | None = None) -> Node:
        inputs = [x.name, self.weight(weight)]
        if bias is None:
            return self.node("MatMul", inputs, (-1, weight.shape[1]))
        return self.node("Gemm", [*inputs, self.operand(bias)], (-1, weight.shape[1]))

    def feed_forward(self, x: Node, wide: Tensor, bias: Tensor, narrow: Tensor) -> Node:
        hidden = self.linear(x, wide, bias)
        return self.linear(self.node("Relu", [hidden.name], hidden.shape), narrow)

    def reshape(self, x: Node, *shape: int) -> Node:
        source = self._unshaped.get(x.name, x)  # of two reshapes in a row the first is for nothing
        if source.shape == shape:
            return source
        result = self.node("Reshape", [source.name, self.integers(*shape)], shape)
        self._unshaped[result.name] = source
        return result

    def split(self, x: Node, sizes: Sequence[int]) -> list[Node]:
        if len(sizes) == 1:
            return [x]
        shapes = [(*x.shape[:-1], size) for size in sizes]
        return self.nodes_out("Split", [x.name, self.integers(*sizes)], shapes, axis=-1)

    def concat(self, parts: Sequence[Node]) -> Node:
        if len(parts) == 1:
            return parts[0]
        shape = (*parts[0].shape[:-1], sum(p.width for p in parts))
        return self.node("Concat", [p.name for p in parts], shape, axis=-1)

    def rows(self, x: Node, start: int, stop: int | None) -> Node:
        if start == 0 and stop is None:
            return x
        bounds = [self.integers(start), self.integers(np.iinfo(np.int64).max if stop is None else stop)]
        return self.node("Slice", [x.name, *bounds, self.integers(0)], x.shape)

    def add(self, a: Node, b: Node | Tensor) -> Node:
        return self.node("Add", [a.name, self.operand(b)], a.shape)

    def sub(self, a: Node, b: Node) -> Node:
        return self.node("Sub", [a.name, b.name], a.shape)

    def mul(self, a: Node, b: Node | Tensor) -> Node:
        return self.node("Mul", [a.name, self.operand(b)], a.shape)

    def sigmoid(self, x: Node) -> Node:
        return self.node("Sigmoid", [x.name], x.shape)

    def tanh(self, x: Node) -> Node:
        return self.node("Tanh", [x.name], x.shape)

    def gelu(self, x: Node) -> Node:
        return self.node("Gelu", [x.name], x.shape)

    def layer_norm(self, x: Node, norm: Norm) -> Node:
        return self.norm_node(x, self.weight(norm.weight), self.weight(norm.bias), norm.eps)

    def norm_linear(self, x: Node, norm: Norm, weight: Tensor, bias: Tensor) -> Node:
        return self.linear(self.layer_norm(x, norm), weight, bias)

    def norm_node(self, x: Node, weight: str, bias: str, eps: float) -> Node:
        """Append a LayerNormalization over the last axis."""
        return self.node("LayerNormalization", [x.name, weight, bias], x.shape, axis=-1, epsilon=eps)

    def normalise(self, x: Node) -> Node:
        """Divide by the norm, spelled out: onnxruntime's LpNormalization is several times slower than these nodes.

        A row that is shorter than 1e-12 is divided by that, as PyTorch does.
        """
        square = self.node("ReduceSum", [self.mul(x, x).name, self.integers(-1)], (*x.shape[:-1], 1), keepdims=1)
        tiny = self.constant("tiny", np.array(1e-24, np.float32))
        norm = self.node("Sqrt", [self.node("Max", [square.name, tiny], square.shape).name], square.shape)
        return self.mul(x, self.node("Reciprocal", [norm.name], norm.shape))

    def mean(self, x: Node, weights: Tensor | None = None) -> Node:
        """Multiply by a row of weights, or of 1/T: half the time of ReduceMean over the middle axis."""
        length, dim = x.shape[1:]
        values = np.full(length, 1 / length) if weights is None else weights.numpy()
        row = self.constant("average", values.astype(np.float32).reshape(1, 1, length))
        return self.reshape(self.node("MatMul", [row, x.name], (-1, 1, dim)), -1, dim)

    def mixture(self, query: Node, contexts: Node, bias: Tensor | None = None) -> tuple[Node, Node]:
        length, dim = contexts.shape[1:]
        column = self.reshape(query, -1, dim, 1)
        scores = self.reshape(self.node("MatMul", [contexts.name, column.name], (-1, length, 1)), -1, length)
        if bias is not None:
            scores = self.add(scores, bias)
        weights = self.node("Softmax", [scores.name], (-1, length), axis=-1)
        mixed = self.node("MatMul", [self.reshape(weights, -1, 1, length).name, contexts.name], (-1, 1, dim))
        return self.reshape(mixed, -1, dim), weights

    def attention(self, query: Node, key: Node, value: Node, heads: int, barred: Tensor | None) -> Node:
        inputs = [query.name, key.name, value.name]
        return self.node(
            "MultiHeadAttention",
            inputs,
            query.shape,
            domain=CONTRIB,
            num_heads=heads,
            scale=1.0,
            unidirectional=int(barred is not None),
            mask_filter_value=BARRED,
        )


def build_graph(form: Form, ops: GraphOps, kind: str, precision: str) -> onnx.ModelProto:
    """Write `form` through `ops`, which compute in `precision`, as an ONNX model that says what it is.

    `kind` "context" maps `context` `[B, T, D]` to `prediction` `[B, D]` (and `attention` `[B, T]`), "sequence"
    maps `vectors` `[N, D]` to one row per window.
    """
    length, dim = form.config.context_length, form.config.dim
    if kind == "context":
        source = helper.make_tensor_value_info("context", TensorProto.FLOAT, ["batch", length, dim])
        results = form.contexts(ops, Node("context", (-1, length, dim)))
    else:
        source = helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["vectors", dim])
        results = form.sequence(ops, Node("vectors", (-1, dim)))
    rows = "batch" if kind == "context" else "windows"
    ops.nodes = _needed(ops.nodes, {result.name for result in results})
    targets = []
    for name, result in zip(form.outputs, results, strict=True):
        _rename(ops.nodes, result.name, name)
        targets.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, *result.shape[1:]]))
    used = {name for node in ops.nodes for name in node.input}
    graph = helper.make_graph(
        ops.nodes,
        f"{form.config.architecture}_{kind}",
        [source],
        targets,
        [tensor for name, tensor in ops.initialisers.items() if name in used],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name=PRODUCER)
    about = {"architecture": form.config.architecture, "form": kind, "precision": precision}
    helper.set_model_props(model, about | {"dim": str(dim), "context_length": str(length)})
    onnx.checker.check_model(model, full_check=True)
    return model


def _needed(nodes: Sequence[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """Return the nodes that the outputs `wanted` depend on, in order."""
    kept = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted = wanted | set(node.input)
    return kept[::-1]


def _rename(nodes: Sequence[onnx.NodeProto], old: str, new: str) -> None:
    """Give the output `old` the name `new` everywhere."""
    for node in nodes:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new
