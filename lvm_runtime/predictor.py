"""The runtime's front door: load an artifact, prove it, and predict.

B batch, T context length, D vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.arguments import shown, whole_number
from lvm_runtime.artifact.folder import Artifact, resolve
from lvm_runtime.backends.lifecycle import building, forks_wait
from lvm_runtime.contexts import Array, Contexts, as_float_array, refuse, to_float32
from lvm_runtime.errors import ArtifactError, InvalidInput, LvmError, counted
from lvm_runtime.request import AUTO, Request
from lvm_runtime.selection.candidates import Refusal
from lvm_runtime.selection.choice import open_session
from lvm_runtime.selection.explanation import Explanation
from lvm_runtime.selection.sequences import SequenceRunner
from lvm_runtime.selection.session import Session
from lvm_runtime.system.memory_maps import mapping_of, release
from lvm_runtime.system.memory_overlap import overlap, overlaps_itself

if TYPE_CHECKING:
    import mmap

    from lvm_runtime.batcher import Batcher

MOST_AT_ONCE = 1024
"""Most contexts that run at once; larger inputs run in slices, so memory stays bounded."""

RELEASE_EVERY = 2
"""Slices after which the pages of memory-mapped inputs and outputs are handed back."""


class Predictor:
    """Predict the next vector of a document from its last T vectors, with any backend behind one `predict`.

    `artifact` is a folder, or the name of an architecture under `./artifacts`. Without further arguments a form in
    full precision serves (drift ≤ 1e-6); `max_drift=1e-3` allows smaller ones, of which the fastest here is taken, for
    `typical_batch` if one is given. A `backend`, `device`, `precision` or number of `threads` that is asked for by name
    is used, or is an error; it never falls back. More than one thread on a CPU holds an ONNX form's weights in memory
    twice, for single queries and for large batches.

    Safe to share between threads; can be pickled (the artifact's folder must be there again); a context manager. In a
    fork of its process it goes on with one thread where the backend can, and says so where not. `largest_norm` is the
    largest norm that a vector may have: 1e6, in fp16 and bf16 200 (64 for an AMN), in int8 what its export measured.

    Raises ArtifactError for a missing or damaged artifact, BackendUnavailable for what cannot run here,
    VerificationFailed if the model's answers here are not the known ones, InvalidInput for wrong arguments.

    >>> with Predictor("artifacts/amn") as predictor:
    ...     predictor.predict(np.ones((2, 5, 384))).shape
    (2, 384)
    """

    def __init__(
        self,
        artifact: str | Path,
        *,
        backend: str = AUTO,
        device: str = AUTO,
        precision: str | None = None,
        max_drift: float | None = None,
        threads: int | None = None,
        typical_batch: int | None = None,
    ) -> None:
        request = Request(backend, device, precision, max_drift, threads, typical_batch)
        self._load(resolve(artifact).absolute(), request)

    @classmethod
    def from_request(cls, artifact: str | Path, request: Request) -> Predictor:
        """Build a Predictor for `request`, which holds the constructor's keyword arguments.

        >>> request = Request(backend="onnx", precision="int8")
        >>> Predictor.from_request("artifacts/amn", request).request.precision
        'int8'
        """
        if not isinstance(request, Request):
            raise InvalidInput(f"request is {shown(request)}, expected a Request")
        self = cls.__new__(cls)
        self._load(resolve(artifact).absolute(), request)
        return self

    def _load(self, path: Path, request: Request) -> None:
        def opened(artifact: Artifact) -> tuple[Artifact, Session, list[Refusal]]:
            session, refused = open_session(artifact, request)
            try:
                if not artifact.is_there():  # what was opened may be the model that took its place
                    raise ArtifactError(f"{path}: another model took its place while it was opened; open it again")
            except BaseException:
                session.close()
                raise
            return artifact, session, refused

        with building():  # with what is imported and measured for it
            self.artifact, session, self._refused = Artifact.read(path, opened)
        self.request, self.config = request, self.artifact.config
        self._shape = (self.config.context_length, self.config.dim)
        self._session: Session | None = session
        self._sequences = SequenceRunner(self.artifact, session)
        self.largest_norm = session.backend.largest_norm

    @overload
    def predict(self, contexts: Any, *, out: Array | None = ..., return_attention: Literal[False] = ...) -> Any: ...
    @overload
    def predict(
        self, contexts: Any, *, out: Array | None = ..., return_attention: Literal[True]
    ) -> tuple[Any, Any]: ...

    def predict(self, contexts: Any, *, out: Array | None = None, return_attention: bool = False) -> Any:
        """Predict the next vector: `[B, T, D]` to `[B, D]`, or `[T, D]` to `[D]`; every row of L2 norm 1.

        `contexts` is numpy (float16, 32, 64), nested lists, a torch tensor on any device, or anything with
        `__dlpack__`; any B, 0 included. The result is float32 numpy, or a tensor on the input's device if it was
        given a tensor, or `out` (float32 numpy of the result's shape) if given. With `return_attention` (AMN only)
        the attention weights `[B, T]` come second.

        Raises InvalidInput for a wrong shape or dtype, for an `out` that overlaps itself or `contexts`, and, with the
        first bad row, for NaN, infinity or a vector of a norm over `largest_norm`; rows of `out` before that one may be
        filled by then. Vectors may be as small as they like, zeros too; only where the model's answer is shorter than
        1e-12 before it is normalised (5e-7 in Core ML), as that of an untrained AMN to zeros, a row is shorter than 1
        or zero.

        >>> predictor = Predictor("artifacts/amn")
        >>> predictor.predict(np.ones((5, 384), np.float16)).dtype
        dtype('float32')
        >>> contexts = np.ones((2, 5, 384))
        >>> answer = predictor.predict(contexts, return_attention=True)
        >>> [part.shape for part in answer]
        [(2, 384), (2, 5)]
        """
        if (
            type(contexts) is np.ndarray
            and contexts.dtype == np.float32
            and contexts.shape[1:] == self._shape
            and 0 < len(contexts) <= MOST_AT_ONCE
            and contexts.flags.c_contiguous
            and contexts.flags.aligned
            and out is None
            and return_attention is False
        ):
            answer = self._open_session().run_usable(contexts)
            if answer is not None:
                return answer
        return self._predict_any(contexts, out, return_attention)

    def _predict_any(self, value: Any, out: Array | None, return_attention: bool) -> Any:
        session = self._open_session()
        contexts = Contexts(value, *self._shape, self.largest_norm)
        batch, (length, dim) = len(contexts), self._shape
        if not isinstance(return_attention, bool | np.bool_):
            raise InvalidInput(f"return_attention is {shown(return_attention)}, expected True or False")
        if return_attention and not session.has_attention:
            raise InvalidInput(f"return_attention: the {self.config.architecture} has no attention to return, only amn")
        if out is None:
            predictions = np.empty((batch, dim), np.float32)
        elif contexts.single:
            predictions = checked_out(out, (dim,), contexts.array)[None]
        else:
            predictions = checked_out(out, (batch, dim), contexts.array)
        attention = np.empty((batch, length), np.float32)
        mappings = mapping_of(contexts.array), mapping_of(predictions)
        for start in range(0, batch, MOST_AT_ONCE):
            _release_now_and_then(start, mappings)
            stop = min(start + MOST_AT_ONCE, batch)
            if return_attention:
                part = contexts.rows(start, stop)
                predictions[start:stop], attention[start:stop] = session.run_with_attention(part)
                continue
            part = contexts.float32(start, stop)
            answer = session.run_usable(part)
            if answer is None:
                contexts.refuse(start, part)
                answer = session.run(part)  # a norm at the very bound: the backend's sum rounds it up
            predictions[start:stop] = answer
        result = contexts.give_back(predictions) if out is None else out
        return (result, contexts.give_back(attention)) if return_attention else result

    def predict_sequence(self, vectors: Any, *, out: Array | None = None) -> Any:
        """Predict after every window of a document: `[N, D]` to `[N − T + 1, D]`; nothing for fewer than T vectors.

        Row i is the prediction for vectors i to i + T − 1, i.e. of vector i + T, and equals `predict` of that window.
        Takes and returns the kinds that `predict` does, and raises what it raises.

        >>> document = np.ones((12, 384), np.float32)
        >>> Predictor("artifacts/amn").predict_sequence(document).shape
        (8, 384)
        """
        self._open_session()
        array, wrap = as_float_array(vectors, "vectors")
        length, dim = self._shape
        if array.ndim != 2 or array.shape[1] != dim:
            raise InvalidInput(f"vectors have shape {list(array.shape)}, expected [N, {dim}]")
        count = max(0, len(array) - length + 1)
        predictions = np.empty((count, dim), np.float32) if out is None else checked_out(out, (count, dim), array)
        mappings = mapping_of(array), mapping_of(predictions)
        for start in range(0, count, MOST_AT_ONCE):
            _release_now_and_then(start, mappings)
            stop = min(start + MOST_AT_ONCE, count)
            vectors = array[start : stop + length - 1]
            part = to_float32(vectors)
            answer = self._sequences.run_usable(part)
            if answer is None:
                refuse(vectors, part, self.largest_norm, start)
                answer = self._sequences.run(part)
            predictions[start:stop] = answer
        return wrap(predictions) if wrap is not None and out is None else predictions

    def rollout(self, contexts: Any, steps: int) -> Any:
        """Predict `steps` vectors ahead, feeding each prediction back in: `[B, T, D]` to `[B, steps, D]`.

        One context `[T, D]` gives `[steps, D]`. Takes and returns the kinds that `predict` does. Raises InvalidInput
        for `steps` below 0 and for what `predict` refuses.

        >>> Predictor("artifacts/amn").rollout(np.ones((5, 384)), steps=3).shape
        (3, 384)
        """
        self._open_session()
        steps = whole_number(steps, "steps", least=0)
        given = Contexts(contexts, *self._shape, self.largest_norm)
        window = given.rows(0, len(given))
        try:
            ahead = np.empty((len(given), steps, self.config.dim), np.float32)
        except ValueError as error:
            raise InvalidInput(f"steps is {shown(steps)}, expected fewer, as an array can hold ({error})") from error
        for step in range(steps):
            ahead[:, step] = prediction = self.predict(window)
            window = np.concatenate([window[:, 1:], prediction[:, None]], axis=1)
        return given.give_back(ahead)

    def stream(self, contexts: Iterable[Any], *, batch_size: int = 32) -> Iterator[Array]:
        """Yield a prediction `[D]` for each context `[T, D]` that comes, in order, running them in batches.

        Raises InvalidInput with the number of the first bad one, after the predictions of those before it.

        >>> contexts = (np.full((5, 384), i) for i in (1.0, 2.0, 3.0))
        >>> predictions = Predictor("artifacts/amn").stream(contexts, batch_size=2)
        >>> [prediction.shape for prediction in predictions]
        [(384,), (384,), (384,)]
        """
        batch_size = whole_number(batch_size, "batch_size")
        if not isinstance(contexts, Iterable):
            raise InvalidInput(f"stream: got {type(contexts).__name__}, expected contexts to iterate over")
        return self._stream(contexts, batch_size)

    def _stream(self, contexts: Iterable[Any], batch_size: int) -> Iterator[Array]:
        waiting: list[Array] = []
        for number, context in enumerate(contexts):
            try:
                waiting.append(self._one_context(context))
            except InvalidInput as error:
                yield from self._predict_rows(waiting)
                raise InvalidInput(f"context {number} of the stream: {error}") from error
            if len(waiting) == batch_size:
                yield from self._predict_rows(waiting)
                waiting = []
        yield from self._predict_rows(waiting)

    def batcher(self, *, max_batch: int = 64, max_delay_ms: float = 2.0, max_pending: int | None = None) -> Batcher:
        """Return a Batcher, which runs the requests of many threads or coroutines together.

        A batch starts when it holds `max_batch` requests, or `max_delay_ms` after its first one came; `max_pending`
        (4 · max_batch unless given) bounds how many wait.

        >>> with Predictor("artifacts/amn").batcher(max_batch=8) as batcher:
        ...     futures = [batcher.submit(np.ones((5, 384))) for _ in range(3)]
        >>> [future.result().shape for future in futures]
        [(384,), (384,), (384,)]
        """
        self._open_session()
        with forks_wait():
            from lvm_runtime.batcher import Batcher  # asyncio costs a sixth of the start-up time, and few need it

        return Batcher(
            self._one_context, self.predict, max_batch=max_batch, max_delay_ms=max_delay_ms, max_pending=max_pending
        )

    def _one_context(self, value: Any) -> Array:
        contexts = Contexts(value, *self._shape, self.largest_norm)
        if not contexts.single:
            raise InvalidInput(f"got {counted(len(contexts), 'context')}, expected one of shape {list(self._shape)}")
        return contexts.copy()  # it waits for others, and the caller may use its memory again

    def _predict_rows(self, rows: list[Array]) -> Iterator[Array]:
        if rows:
            yield from self.predict(np.concatenate(rows))

    def explain(self) -> Explanation:
        """Say what was asked for, what runs where with which drift, and what was ruled out and why.

        >>> explanation = Predictor("artifacts/amn", backend="onnx").explain()
        >>> "onnx fp32" in str(explanation)
        True
        """
        running = self._open_session().describe()
        refused = [*self._refused, self._sequences.refusal] if self._sequences.refusal else self._refused
        return Explanation(str(self.artifact.path), self.config.architecture, self.request, running, tuple(refused))

    def close(self) -> None:
        """Release the backends; predicting afterwards is an error. Closing twice is not.

        >>> predictor = Predictor("artifacts/amn")
        >>> predictor.close()
        >>> predictor.predict(np.ones((5, 384)))
        Traceback (most recent call last):
        lvm_runtime.errors.LvmError: this Predictor is closed; make a new one
        """
        session, self._session = self._session, None
        if session is not None:
            session.close()
            self._sequences.close()

    def _open_session(self) -> Session:
        if self._session is None:
            raise LvmError("this Predictor is closed; make a new one")
        return self._session

    def __enter__(self) -> Predictor:
        self._open_session()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {
            "artifact": self.artifact.path,
            "request": self.request,
            "model": self.artifact.manifest.model,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._load(state["artifact"], state["request"])
        if self.artifact.manifest.model != state["model"]:
            self.close()
            raise ArtifactError(
                f"{self.artifact.path}: its config or weights changed since this Predictor was pickled; open a new one"
            )

    def __repr__(self) -> str:
        running = "closed" if self._session is None else self._session.describe()
        return f"Predictor({str(self.artifact.path)!r}: {self.config.architecture}, {running})"


def checked_out(out: Any, shape: tuple[int, ...], source: NDArray[Any]) -> NDArray[np.float32]:
    """Return `out` after checking that a result of `shape` fits into it as it is, apart from what `source` holds."""
    if (
        type(out) not in (np.ndarray, np.memmap)
        or out.dtype != np.float32
        or out.shape != shape
        or not out.flags.writeable
    ):
        what = f"{out.dtype} {list(out.shape)}" if isinstance(out, np.ndarray) else type(out).__name__
        raise InvalidInput(f"out is {what}, expected a writable float32 numpy array of shape {list(shape)}")
    if overlaps_itself(out):
        raise InvalidInput(
            f"out has strides {out.strides}, by which rows lie on each other; expected an array of its own"
        )
    if overlap(out, source):
        raise InvalidInput("out shares memory with the input, which would change while it is read; give another array")
    return out


def _release_now_and_then(start: int, mappings: tuple[mmap.mmap | None, ...]) -> None:
    if start % (RELEASE_EVERY * MOST_AT_ONCE) == 0 and start:
        for mapping in mappings:
            release(mapping)
