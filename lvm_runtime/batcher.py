"""Many callers, one batch: requests that arrive together run together.

A caller alone at batch 1 pays for reading every weight; 64 callers who read them together pay once. One worker
thread runs the batches; while it runs one, the next collects. A batch starts when it is full, or when its first
request has waited `max_delay_ms`, so a request waits for the delay and at most two full batches. With `adaptive` it
also starts when it is as large as the batch before it: callers who wait for their answers come back together, and a
caller alone waits for nobody.

r contexts of a request, b of a batch, T context length, D vector.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np

from lvm_runtime.arguments import finite_number, whole_number
from lvm_runtime.contexts import Array
from lvm_runtime.errors import InvalidInput, LvmError, counted

_POLL_SECONDS = 0.001  # how often a coroutine looks for room; a full queue lasts a batch, which is longer


class Prediction(Future):
    """A future for one prediction `[D]`; in a coroutine it can be awaited."""

    def __await__(self) -> Generator[Any, None, Array]:
        return asyncio.wrap_future(self).__await__()


class _Request:
    __slots__ = ("arrived", "contexts", "future")

    def __init__(self, contexts: Array, future: Prediction) -> None:
        self.contexts = contexts
        self.future = future
        self.arrived = time.monotonic()


class Batcher:
    """Collect single contexts from many threads or coroutines into batches of up to `max_batch`.

    `check` turns what a caller hands in into `[1, T, D]` float32 of its own memory or raises InvalidInput; `run`
    predicts `[b, T, D]`. At most `max_pending` requests wait; further callers are held back. A batcher that nobody
    holds any more runs what is queued and stops. Made by `Predictor.batcher`.

    With `whole`, requests are `[r, T, D]` and are answered with `[r, D]`; the limits then count contexts, and a request
    over `max_batch` is a batch of its own. `deliver` is handed what settles the futures of a batch, and calls it: an
    event loop's `call_soon_threadsafe` wakes the loop once for a batch, and not once for each request.

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
        adaptive: bool = False,
        whole: bool = False,
        deliver: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        self.max_batch = whole_number(max_batch, "max_batch")
        self.max_delay = min(finite_number(max_delay_ms, "max_delay_ms", example="2") / 1e3, threading.TIMEOUT_MAX)
        self.max_pending = 4 * self.max_batch if max_pending is None else whole_number(max_pending, "max_pending")
        self._check = check
        self._process = os.getpid()
        self._queue = _Queue(self.max_batch, self.max_delay, self.max_pending, adaptive)
        # the worker holds the queue and not the batcher, which can so be dropped
        self._worker = threading.Thread(
            target=_serve, args=(self._queue, run, whole, deliver), name="lvm-batcher", daemon=True
        )
        self._worker.start()

    @property
    def pending(self) -> int:
        """How many contexts wait for a batch."""
        return self._queue.rows

    def submit(self, context: Any, *, timeout: float | None = None) -> Prediction:
        """Queue one context `[T, D]` and return the future of its prediction `[D]` float32.

        A context that cannot be used makes its own future fail with InvalidInput, and no other. While `max_pending`
        requests wait, this call blocks; after `timeout` seconds of that it raises LvmError. So it does once closed, and
        in a fork of the process that made the batcher. A future's own callback is never held back: the thread that
        would make room is the one that runs it.

        >>> with Predictor("artifacts/amn").batcher() as batcher:
        ...     good = batcher.submit(np.ones((5, 384)))
        ...     bad = batcher.submit(np.ones((4, 384)))
        >>> good.result().shape, type(bad.exception()).__name__
        ((384,), 'InvalidInput')
        """
        if timeout is not None:
            timeout = min(finite_number(timeout, "timeout", example="0.5"), threading.TIMEOUT_MAX)
        wait = threading.current_thread() is not self._worker
        return self._admit(context, (lambda: self._queue.wait_for_room(timeout)) if wait else lambda: None)

    async def predict(self, context: Any) -> Array:
        """Return the prediction `[D]` for one context `[T, D]`; held back, without blocking the loop, when full.

        >>> import asyncio
        >>> async def answer():
        ...     with Predictor("artifacts/amn").batcher() as batcher:
        ...         return await batcher.predict(np.ones((5, 384)))
        >>> asyncio.run(answer()).shape
        (384,)
        """
        self._require_own_process()
        while not self._queue.closed and self._queue.rows >= self.max_pending:
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
        if os.getpid() == self._process:
            self._queue.close()
            if threading.current_thread() is not self._worker:
                self._worker.join()

    def __enter__(self) -> Batcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_queue") and os.getpid() == self._process:
            self._queue.close()

    def _admit(self, context: Any, wait_for_room: Callable[[], None]) -> Prediction:
        self._require_own_process()
        future = Prediction()
        try:
            request = _Request(self._check(context), future)
        except InvalidInput as error:
            future.set_exception(error)
            return future
        self._queue.put(request, wait_for_room)
        return future

    def _require_own_process(self) -> None:
        if os.getpid() != self._process:
            raise LvmError("this batcher was made before the process forked; make a new one after the fork")


class _Queue:
    """The requests that wait, and the conditions on which the callers and the worker wait for each other."""

    def __init__(self, max_batch: int, max_delay: float, max_pending: int, adaptive: bool) -> None:
        self.max_batch, self.max_delay, self.max_pending, self.adaptive = max_batch, max_delay, max_pending, adaptive
        self.waiting: deque[_Request] = deque()
        self.rows = 0  # contexts of the requests that wait
        self.enough = 1 if adaptive else max_batch  # contexts at which a batch starts before its time
        self.closed = False
        self._lock = threading.RLock()  # a garbage collection in the worker may close the queue that it has locked
        self._work = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)

    def put(self, request: _Request, wait_for_room: Callable[[], None]) -> None:
        """Append a request; LvmError once closed. `wait_for_room` is called with the lock held."""
        with self._lock:
            wait_for_room()
            if self.closed:
                raise LvmError("this batcher is closed; make a new one")
            self.waiting.append(request)
            before, self.rows = self.rows, self.rows + len(request.contexts)
            if not before or before < self.enough <= self.rows:  # the worker looks up for a first and for a last one
                self._work.notify()

    def wait_for_room(self, timeout: float | None) -> None:
        """Return when a request may be put; LvmError after `timeout` seconds. Called with the lock held."""
        if not self._room.wait_for(lambda: self.closed or self.rows < self.max_pending, timeout):
            raise LvmError(
                f"{counted(self.max_pending, 'request has', 'requests have')} been waiting for {timeout} s; slow down, "
                "or raise max_pending"
            )

    def take(self) -> list[_Request]:
        """Wait for the next batch and take it off the queue; an empty one means that all is done."""
        with self._lock:
            self._work.wait_for(lambda: self.waiting or self.closed)
            if not self.waiting:
                return []
            remaining = self.waiting[0].arrived + self.max_delay - time.monotonic()
            if remaining > 0:
                self._work.wait_for(lambda: self.rows >= self.enough or self.closed, remaining)
            taken = [self.waiting.popleft()]
            rows = len(taken[0].contexts)
            while self.waiting and rows + len(self.waiting[0].contexts) <= self.max_batch:
                taken.append(self.waiting.popleft())
                rows += len(taken[-1].contexts)
            self.rows -= rows
            if self.adaptive:
                self.enough = min(rows, self.max_batch)
            self._room.notify(len(taken))
        return taken

    def close(self) -> None:
        """Let nothing in any more; what waits is still taken."""
        with self._lock:
            self.closed = True
            self._work.notify_all()
            self._room.notify_all()


def _serve(
    queue: _Queue,
    run: Callable[[Array], Array],
    whole: bool,
    deliver: Callable[[Callable[[], None]], object] | None,
) -> None:
    while batch := queue.take():
        settle = _answer(batch, run, whole)
        if deliver is None:
            settle()
        else:
            deliver(settle)
        del settle
        del batch  # its contexts and futures would live until the next one


def _answer(batch: list[_Request], run: Callable[[Array], Array], whole: bool) -> Callable[[], None]:
    """Run a batch and return what hands the answers out."""
    live = [request for request in batch if _is_wanted(request.future)]
    if not live:
        return lambda: None
    try:
        predictions = run(np.concatenate([request.contexts for request in live]))
    except BaseException as error:
        return partial(_fail, live, error)
    return partial(_hand_out, live, predictions, whole)


def _is_wanted(future: Prediction) -> bool:
    """Say whether the answer is still waited for: its caller may have cancelled the future, or settled it."""
    try:
        return future.set_running_or_notify_cancel()
    except RuntimeError:
        return False


def _fail(live: list[_Request], error: BaseException) -> None:
    for request in live:
        _settle(request.future.set_exception, error)


def _settle(settle: Callable[[Any], None], value: Any) -> None:
    """Settle one future. What its callbacks raise ends neither the worker nor what others wait for."""
    try:
        settle(value)
    except BaseException:  # a future passes on what is no Exception, SystemExit say
        threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))


def _hand_out(live: list[_Request], predictions: Array, whole: bool) -> None:
    start = 0
    for request in live:
        stop = start + len(request.contexts)
        rows = predictions[start:stop] if whole else predictions[start]
        _settle(request.future.set_result, rows.copy())  # a view would keep the whole batch in memory
        start = stop
