"""What every deployment form is: weights rewritten once, in float64, and one program over `Ops`.

Each program has two halves, cut where windows begin to matter: `project` works on single vectors, `combine` on
the windows of what it returned. The context form runs both on the T vectors of each context; the sequence form
runs `project` once per vector of a document and shares the results between its overlapping windows.

B batch, N vectors of a document, T context length, D vector, P width of a projection.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lvm_runtime.artifact.config import ModelConfig

from .ops import CountingOps, Norm, Ops, TorchOps, Value


class Window:
    """A projection over the T positions of each window, as one matrix or step by step, whichever is asked for."""

    def __init__(self, ops: Ops, length: int, *, flat: Value = None, steps: list[Value] | None = None) -> None:
        self._ops, self._length = ops, length
        self._flat, self._steps = flat, steps

    def flat(self) -> Value:
        """Return `[B, T·P]`."""
        if self._flat is None:
            assert self._steps is not None
            self._flat = self._ops.concat(self._steps)
        return self._flat

    def steps(self, width: int) -> list[Value]:
        """Return T values `[B, P]` for P = `width`."""
        if self._steps is None:
            self._steps = self._ops.split(self._flat, [width] * self._length)
        return self._steps

    def step_parts(self, *widths: int) -> list[list[Value]]:
        """Return per step its values `[B, width]`, one per part that P is cut into; all in one cut where possible."""
        if self._steps is not None:
            return [self._ops.split(step, widths) for step in self._steps]
        parts = self._ops.split(self._flat, list(widths) * self._length)
        return [parts[start : start + len(widths)] for start in range(0, len(parts), len(widths))]


class Form(nn.Module, ABC):
    """A deployment form: the same function as a training form, with fewer operations.

    Weights are buffers in float64, `[in, out]`; `.float()` gives what is compiled. Calling the module runs the
    context form in PyTorch: `[B, T, D]` to `[B, D]`, or to `([B, D], [B, T])` with attention for the AMN.
    """

    outputs: tuple[str, ...] = ("prediction",)

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.length = config.context_length

    def keep(self, name: str, tensor: Tensor) -> None:
        """Hold a rewritten weight under `name`."""
        self.register_buffer(name, tensor.detach().clone().contiguous())

    def keep_norm(self, name: str, layer: nn.LayerNorm, *, early: Tensor | float = 0.0) -> None:
        """Hold a LayerNorm under `name`; `early` is added to its bias: a bias that a later sum would add."""
        self.keep(f"{name}_weight", layer.weight)
        self.keep(f"{name}_bias", layer.bias + early)
        self.eps = float(layer.eps)

    def norm(self, name: str) -> Norm:
        """Return the LayerNorm that was kept under `name`."""
        return Norm(getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias"), self.eps)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Buffers are tensors; nn.Module's own annotation says tensor or module."""

    @abstractmethod
    def project(self, ops: Ops, vectors: Value) -> list[Value]:
        """Compute from single vectors `[rows, D]` what windows need of them, each `[rows, P]`."""

    @abstractmethod
    def combine(self, ops: Ops, windows: list[Window]) -> tuple[Value, ...]:
        """Compute the outputs from the windows of each projection."""

    def contexts(self, ops: Ops, context: Value) -> tuple[Value, ...]:
        """Run the context form on `[B, T, D]`."""
        projected = self.project(ops, ops.reshape(context, -1, self.config.dim))
        return self.combine(ops, [self.window(ops, p, w) for p, w in zip(projected, self.widths(), strict=True)])

    def sequence(self, ops: Ops, vectors: Value) -> tuple[Value, ...]:
        """Run the sequence form on the vectors `[N, D]` of one document: N−T+1 windows."""
        windows = []
        for projection in self.project(ops, vectors):
            stops = [t - self.length + 1 or None for t in range(self.length)]
            steps = [ops.rows(projection, t, stop) for t, stop in enumerate(stops)]
            windows.append(Window(ops, self.length, steps=steps))
        return self.combine(ops, windows)

    @abstractmethod
    def widths(self) -> tuple[int, ...]:
        """Return the width P of each projection."""

    def forward(self, context: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run the context form in PyTorch."""
        outputs = self.contexts(TorchOps(), context)
        return outputs if len(outputs) > 1 else outputs[0]

    def window(self, ops: Ops, rows: Value, width: int) -> Window:
        """Return the windows of `rows` `[B·T, width]`, which are those of contexts."""
        return Window(ops, self.length, flat=ops.reshape(rows, -1, self.length * width))


@torch.no_grad()
def multiply_adds(form: Form) -> int:
    """Count the multiply-adds of one prediction."""
    ops = CountingOps()
    form.contexts(ops, torch.zeros(1, form.length, form.config.dim, dtype=next(form.buffers()).dtype))
    return ops.multiply_adds
