"""MLX: Apple's array library, on the GPU of a Mac (Metal) or on the CPU; needs numpy and mlx, and never torch.

Runs the deployment form as a flat plan with fp32 weights, in fp32, fp16 or bfloat16. The last normalisation is in fp32
in each of them, so that predictions have norm 1. A thread of MLX's own cannot be used by another thread of Python's:
a backend does all its work in one thread that it keeps for that. What MLX has compiled it frees in the same thread, and
takes the interpreter lock to do so: not when the system ends the thread, which would abort an interpreter that exits.

b batch, W windows, R rows of a view, T context length, D vector.
"""

from __future__ import annotations

import math
import platform
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ClassVar

import numpy as np

from lvm_runtime.backends.base import REDUCED_LARGEST_NORM, Array, Backend
from lvm_runtime.backends.plan_file import Operation, Plan, View, read_plan
from lvm_runtime.errors import ArtifactError, BackendUnavailable, LvmError, one_line
from lvm_runtime.system import extras

_TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_TINY = 1e-12  # what torch's normalize divides by where a norm is smaller
_Task = tuple["Future[list[Array]]", Array]


class MlxBackend(Backend):
    """Run a file made by `lvm-runtime export mlx`: contexts of any batch, or the vectors of a document.

    `precision` is "fp32", "fp16" or "bf16". MLX compiles the program anew for each batch size that it has not seen.
    """

    name: ClassVar[str] = "mlx"
    format: ClassVar[str | None] = "mlx"
    framework: ClassVar[str] = "mlx.core"
    install: ClassVar[str] = extras.pip_command("mlx")
    packages: ClassVar[tuple[str, ...]] = ("mlx",)
    precisions: ClassVar[tuple[str, ...] | None] = tuple(_TYPES)
    runs_sequences: ClassVar[bool] = True

    def __init__(
        self, source: Path, *, device: str = "auto", threads: int | None = None, precision: str | None = None
    ) -> None:
        self.refuse_forked()
        mx = self.load_framework()
        present = self.devices()
        self.device = present[0] if device == "auto" else device
        if self.device not in present:
            raise BackendUnavailable(
                f"backend mlx cannot run on device {device!r}: this MLX has the devices {', '.join(present)}"
            )
        self.refuse_threads(threads)
        self.precision = self.arithmetic(precision)
        if self.precision != "fp32":
            self.largest_norm = REDUCED_LARGEST_NORM
        try:
            tensors, metadata = mx.load(str(source), format="safetensors", return_metadata=True)
            mx.eval(*tensors.values())  # here: what is read later would be read by this thread only
        except Exception as error:  # MLX raises RuntimeError, ValueError and more
            raise ArtifactError(f"{source}: MLX cannot load it: {one_line(error)}") from error
        wrong = sorted(name for name, tensor in tensors.items() if tensor.dtype != mx.float32)
        if wrong or "plan" not in metadata:
            raise ArtifactError(f"{source}: expected a plan and float32 weights; export it again")
        plan = read_plan(metadata["plan"], {name: t.shape for name, t in tensors.items()}, str(source))
        program = partial(_Program, mx, plan, tensors, getattr(mx, _TYPES[self.precision]))
        stream = mx.gpu if self.device == "gpu" else mx.cpu
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        thread = threading.Thread(target=_serve, args=(self._tasks, mx, stream, program), name="lvm-mlx", daemon=True)
        thread.start()
        self._end = weakref.finalize(self, _end, self._tasks, thread)
        self._end.atexit = False  # it is closed at the exit, once nobody runs it any more

    @classmethod
    def devices(cls) -> list[str]:
        """Return "gpu" where there is Metal, and "cpu"."""
        mx = cls.load_framework()
        return ["gpu", "cpu"] if platform.system() == "Darwin" and mx.metal.is_available() else ["cpu"]

    def run(self, contexts: Array) -> Array:
        """Return predictions `[b, D]` for contexts `[b, T, D]`, or for the windows of the vectors `[N, D]`."""
        return self._run(contexts)[0]

    def run_with_attention(self, contexts: Array) -> tuple[Array, Array]:
        """Return predictions `[b, D]` and attention `[b, T]`."""
        prediction, attention = self._run(contexts)
        return prediction, attention

    def after_fork(self) -> None:
        """Say what to do instead; a new backend would wait for ever too."""
        self.refuse_forked()

    def close(self) -> None:
        """End the thread; what was being computed is finished first."""
        self._end()

    def _run(self, contexts: Array) -> list[Array]:
        if not self._end.alive:
            raise LvmError("this backend is closed")
        answer: Future[list[Array]] = Future()
        self._tasks.put((answer, contexts.reshape(len(contexts), -1)))
        return answer.result()


def _serve(tasks: SimpleQueue[_Task | None], mx: Any, stream: Any, program: Callable[[], _Program]) -> None:
    """Compute what comes until it is None, with a program that is compiled at first."""
    compiled: Any = None
    while (task := tasks.get()) is not None:
        answer, inputs = task
        try:
            with mx.stream(stream):
                compiled = compiled or mx.compile(program())
                answer.set_result(_computed(mx, compiled, inputs))
        except BaseException as error:  # raised again in the caller's thread
            answer.set_exception(error)
        del task, answer, inputs  # the caller's arrays


def _computed(mx: Any, program: Any, inputs: Array) -> list[Array]:
    outputs = program(mx.array(inputs))
    mx.eval(*outputs)
    return [np.array(output) for output in outputs]


def _end(tasks: SimpleQueue[_Task | None], thread: threading.Thread) -> None:
    tasks.put(None)
    if thread is not threading.current_thread():  # where the garbage collector may run too
        thread.join()


class _Program:
    """The plan as a function from `[b, T · D]`, or `[N, D]`, to the prediction and, if there is one, the attention."""

    def __init__(self, mx: Any, plan: Plan, tensors: dict[str, Any], dtype: Any) -> None:
        self._mx, self._plan, self._dtype = mx, plan, dtype
        self._tensors = {name: tensor.astype(dtype) for name, tensor in tensors.items()}

    def __call__(self, inputs: Any) -> tuple[Any, ...]:
        values = _Values(self._mx, self._plan, inputs.astype(self._dtype))
        for operation in self._plan.operations:
            self._apply(operation, values)
        numbers = (self._plan.prediction, self._plan.attention)
        return tuple(values.buffer(n).astype(self._mx.float32) for n in numbers if n is not None)

    def _apply(self, operation: Operation, values: _Values) -> None:
        views = operation.views
        per_vector = self._plan.buffers[views["out"].buffer].vectors
        inputs = {
            role: values.read(view, per_vector) for role, view in views.items() if role not in ("out", "weights_out")
        }
        weights = {role: self._tensors[name] for role, name in operation.weights.items()}
        result = getattr(self, f"_{operation.name}")(operation, **inputs, weights=weights)
        if operation.name == "mixture":
            result, attention = result
            values.write(views["weights_out"], attention)
        values.write(views["out"], result)

    def _linear(self, operation: Operation, x: Any, weights: dict[str, Any], add: Any = None) -> Any:
        product = x @ weights["weight"]
        if "bias" in weights:
            product = product + weights["bias"].reshape(-1, product.shape[2])  # one for all rows, or one each
        return product if add is None else product + add

    def _relu(self, operation: Operation, x: Any, weights: dict[str, Any]) -> Any:
        return self._mx.maximum(x, 0)

    def _sigmoid(self, operation: Operation, x: Any, weights: dict[str, Any]) -> Any:
        return self._mx.sigmoid(x)

    def _tanh(self, operation: Operation, x: Any, weights: dict[str, Any]) -> Any:
        return self._mx.tanh(x)

    def _gelu(self, operation: Operation, x: Any, weights: dict[str, Any]) -> Any:
        return x * (1 + self._mx.erf(x / math.sqrt(2))) / 2

    def _add(self, operation: Operation, x: Any, weights: dict[str, Any], y: Any = None) -> Any:
        return x + (weights["y"] if y is None else y)

    def _sub(self, operation: Operation, x: Any, weights: dict[str, Any], y: Any = None) -> Any:
        return x - (weights["y"] if y is None else y)

    def _mul(self, operation: Operation, x: Any, weights: dict[str, Any], y: Any = None) -> Any:
        return x * (weights["y"] if y is None else y)

    def _layer_norm(self, operation: Operation, x: Any, weights: dict[str, Any]) -> Any:
        return self._mx.fast.layer_norm(x, weights["weight"], weights["bias"], operation.numbers["eps"])

    def _normalise(self, operation: Operation, x: Any, weights: dict[str, Any]) -> Any:
        mx = self._mx
        x = x.astype(mx.float32)
        return x / mx.maximum(mx.sqrt(mx.sum(x * x, axis=-1, keepdims=True)), _TINY)

    def _mean(self, operation: Operation, x: Any, weights: dict[str, Any]) -> Any:
        if "weight" in weights:
            return self._mx.sum(x * weights["weight"][:, None], axis=1, keepdims=True)
        return self._mx.mean(x, axis=1, keepdims=True)

    def _mixture(self, operation: Operation, query: Any, contexts: Any, weights: dict[str, Any]) -> tuple[Any, Any]:
        scores = query @ contexts.swapaxes(1, 2)  # [b, 1, R]
        if "bias" in weights:
            scores = scores + weights["bias"]
        shares = self._mx.softmax(scores, axis=-1, precise=True)
        return shares @ contexts, shares

    def _attention(self, operation: Operation, query: Any, key: Any, value: Any, weights: dict[str, Any]) -> Any:
        mx, heads = self._mx, operation.numbers["heads"]

        def apart(x: Any) -> Any:
            return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)  # [b, heads, R, width / heads]

        scores = apart(query) @ apart(key).swapaxes(2, 3)
        if operation.numbers["causal"]:
            rows = query.shape[1]
            seen = mx.tri(rows, rows, dtype=mx.bool_)
            scores = mx.where(seen, scores, mx.array(-math.inf, scores.dtype))
        mixed = mx.softmax(scores, axis=-1, precise=True) @ apart(value)
        return mixed.swapaxes(1, 2).reshape(query.shape)


class _Values:
    """What the buffers hold: pieces `[b, n]`, from their offset on."""

    def __init__(self, mx: Any, plan: Plan, inputs: Any) -> None:
        self._mx, self._plan = mx, plan
        self._pieces: dict[int, list[tuple[int, Any]]] = {0: [(0, inputs)]}
        self._windows = inputs.shape[0] - (plan.length - 1 if plan.form == "sequence" else 0)

    def buffer(self, number: int) -> Any:
        """Return the whole buffer `[b, size]`, or `[N, size]` if it is one of vectors."""
        ((_, whole),) = self._joined(number)
        return whole

    def read(self, view: View, per_vector: bool) -> Any:
        """Return the rows of a view, `[b, R, width]`."""
        size, vectors = self._plan.buffers[view.buffer]
        if vectors and not per_vector:  # overlapping windows
            shape, strides = (self._windows, view.rows, view.width), (size, view.step, 1)
            return self._mx.as_strided(self.buffer(view.buffer), shape, strides, view.offset)
        values, start = self._piece(view)
        if view.whole:
            return values[:, start : start + view.rows * view.width].reshape(-1, view.rows, view.width)
        starts = [start + row * view.step for row in range(view.rows)]
        return self._mx.stack([values[:, at : at + view.width] for at in starts], axis=1)

    def write(self, view: View, rows: Any) -> None:
        """Keep `[b, R, width]` as what the view holds."""
        pieces = self._pieces.setdefault(view.buffer, [])
        if view.whole:
            pieces.append((view.offset, rows.reshape(rows.shape[0], -1)))
        else:
            pieces += [(view.offset + row * view.step, rows[:, row]) for row in range(view.rows)]

    def _piece(self, view: View) -> tuple[Any, int]:
        """Return an array that holds the view, and where the view begins in it."""
        end = view.offset + (view.rows - 1) * view.step + view.width
        for pieces in (lambda: self._pieces[view.buffer], lambda: self._joined(view.buffer)):
            for start, piece in pieces():
                if start <= view.offset and end <= start + piece.shape[1]:
                    return piece, view.offset - start
        raise AssertionError("the plan was checked: a view lies in what was written")

    def _joined(self, number: int) -> list[tuple[int, Any]]:
        """Join the pieces of a buffer that follow each other without a gap."""
        runs: list[tuple[int, list[Any]]] = []
        end = -1
        for start, piece in sorted(self._pieces[number], key=lambda item: item[0]):
            if start != end:
                runs.append((start, []))
            runs[-1][1].append(piece)
            end = start + piece.shape[1]
        joined = [(start, self._mx.concatenate(run, axis=1) if len(run) > 1 else run[0]) for start, run in runs]
        self._pieces[number] = joined
        return joined
