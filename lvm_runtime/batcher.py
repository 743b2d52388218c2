"""Many callers, one batch: requests that arrive together run together.

A caller alone at batch 1 pays for reading every weight; 64 callers who read them together pay once. One worker
thread runs the batches; while it runs one, the next collects. A batch starts when it is full, or when its first
request has waited `max_delay_ms`, so a request waits for the delay and at most two full batches.

T context length, D vector.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from types import TracebackType
from typing import Any

import numpy as np

from lvm_runtime.contexts import Array
from lvm_runtime.errors import InvalidInput, LvmError

_POLL_SECONDS = 0.001  # how often a coroutine looks for room; a full queue lasts a batch, which is longer


class Prediction(Future):
    """A future for one prediction `[D]`; in a coroutine it can be awaited."""

    def __await__(self) -> Generator[Any, None, Array]:
        return asyncio.wrap_future(self).__await__()


class _Request:
    __slots__ = ("arrived", "context", "future")

    def __init__(self, context: Array, future: Prediction) -> None:
        self.context = context
        self.future = future
        self.arrived = time.monotonic()


class Batcher:
    """Collect single contexts from many threads or coroutines into batches of up to `max_batch`.

    `check` turns what a caller hands in into `[1, T, D]` float32 or raises InvalidInput; `run` predicts `[b, T, D]`.
    At most `max_pending` requests wait; further callers are held back. Made by `Predictor.batcher`.

    >>> with Predictor("artifacts/amn").batcher() as batcher:
    ...     batcher.submit(np.ones((5, 384))).result().shape
    (384,)
    """

    def __init__(
        self,
        check: Callable[[Any], Array],
        run: Callable[[Array], Array],
        *,
        max_batch: int = 64,
        max_delay_ms: float = 2.0,
        max_pending: int | None = None,
    ) -> None:
        pending = 4 * max_batch if max_pending is None else max_pending
        if max_batch < 1 or pending < 1 or not max_delay_ms >= 0:
            raise InvalidInput(
                f"batcher: max_batch {max_batch}, max_delay_ms {max_delay_ms}, max_pending {max_pending}; expected "
                "at least 1, 0 and 1"
            )
        self._check, self._run = check, run
        self.max_batch, self.max_delay, self.max_pending = max_batch, max_delay_ms / 1e3, pending
        self._waiting: deque[_Request] = deque()
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._closed = False
        self._worker = threading.Thread(target=self._serve, name="lvm-batcher", daemon=True)
        self._worker.start()

    def submit(self, context: Any, *, timeout: float | None = None) -> Prediction:
        """Queue one context `[T, D]` and return the future of its prediction `[D]` float32.

        A context that cannot be used makes its own future fail with InvalidInput, and no other. While `max_pending`
        requests wait, this call blocks; after `timeout` seconds of that it raises LvmError. So it does once closed.

        >>> with Predictor("artifacts/amn").batcher() as batcher:
        ...     good = batcher.submit(np.ones((5, 384)))
        ...     bad = batcher.submit(np.ones((4, 384)))
        >>> good.result().shape, type(bad.exception()).__name__
        ((384,), 'InvalidInput')
        """
        return self._admit(context, lambda: self._wait_for_room(timeout))

    async def predict(self, context: Any) -> Array:
        """Return the prediction `[D]` for one context `[T, D]`; held back, without blocking the loop, when full.

        Raises InvalidInput for a context that cannot be used, and LvmError once closed.

        >>> import asyncio
        >>> async def answer():
        ...     with Predictor("artifacts/amn").batcher() as batcher:
        ...         return await batcher.predict(np.ones((5, 384)))
        >>> asyncio.run(answer()).shape
        (384,)
        """
        while not self._closed and len(self._waiting) >= self.max_pending:
            await asyncio.sleep(_POLL_SECONDS)
        return await self._admit(context, lambda: None)

    def close(self) -> None:
        """Run what is queued, then stop; submitting afterwards is an error. Closing twice is not.

        >>> batcher = Predictor("artifacts/amn").batcher()
        >>> batcher.close()
        >>> batcher.submit(np.ones((5, 384)))
        Traceback (most recent call last):
        lvm_runtime.errors.LvmError: this batcher is closed; make a new one
        """
        with self._lock:
            self._closed = True
            self._work.notify_all()
            self._room.notify_all()
        self._worker.join()

    def __enter__(self) -> Batcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _admit(self, context: Any, wait_for_room: Callable[[], None]) -> Prediction:
        future = Prediction()
        try:
            request = _Request(self._check(context), future)
        except InvalidInput as error:
            future.set_exception(error)
            return future
        with self._lock:
            wait_for_room()
            if self._closed:
                raise LvmError("this batcher is closed; make a new one")
            self._waiting.append(request)
            if len(self._waiting) in (1, self.max_batch):  # the worker looks up for a first and for a last one
                self._work.notify()
        return future

    def _wait_for_room(self, timeout: float | None) -> None:
        if not self._room.wait_for(lambda: self._closed or len(self._waiting) < self.max_pending, timeout):
            raise LvmError(
                f"{self.max_pending} requests have been waiting for {timeout} s; slow down, or raise max_pending"
            )

    def _serve(self) -> None:
        while batch := self._collect():
            self._answer(batch)

    def _collect(self) -> list[_Request]:
        """Wait for the next batch and take it off the queue; an empty one means that all is done."""
        with self._lock:
            self._work.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return []
            remaining = self._waiting[0].arrived + self.max_delay - time.monotonic()
            if remaining > 0:
                self._work.wait_for(lambda: len(self._waiting) >= self.max_batch or self._closed, remaining)
            taken = [self._waiting.popleft() for _ in range(min(self.max_batch, len(self._waiting)))]
            self._room.notify(len(taken))
        return taken

    def _answer(self, batch: list[_Request]) -> None:
        live = [request for request in batch if request.future.set_running_or_notify_cancel()]
        if not live:
            return
        try:
            predictions = self._run(np.concatenate([request.context for request in live]))
        except BaseException as error:
            for request in live:
                request.future.set_exception(error)
            return
        for request, prediction in zip(live, predictions, strict=True):
            request.future.set_result(prediction.copy())  # a view would keep the whole batch in memory
