"""What comes during one turn of an event loop, as one batch: run by the loop itself where that is quick.

Handing a batch to a thread and its answers back costs several times what a quick model does, above all when both
threads want Python's lock. So a batch that is expected to take less than `QUICK` seconds runs on the loop, in the turn
in which its requests came; what comes meanwhile is the next turn's. Any other goes to the Batcher, whose thread leaves
the loop free. Requests that come a few turns apart wait for each other: grpc.aio accepts one call at a time.

r contexts of a request, b of a batch, T context length, D vector.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.batcher import Batcher
from lvm_runtime.contexts import Array
from lvm_runtime.errors import InvalidInput, LvmError

QUICK = 0.002
"""Seconds for which a batch may hold up the loop, and with it a health check."""

_AFTER_ONE, _AFTER_MANY = 10, 200
"""Turns without a request, after which staggered ones are a batch: where the last batch had one request, and else.
grpc.aio takes about 8 turns to accept a call. With 4 turns the batches of 32 clients held one request each, with 10
and 200 they hold 15. 200 empty turns take 0.1 to 0.3 ms: who comes more often than that is not answered singly."""

_NEWEST = 0.2
"""Share of the newest measurement in what a batch is expected to take."""

_Waiting = tuple[NDArray[Any], "asyncio.Future[Array]"]


class EventLoopBatcher:
    """Batches of requests `[r, T, D]` of any float type on the running event loop, whose thread calls the methods.

    `run` checks and predicts `[b, T, D]`, and `check` is what it checks of a request; both raise InvalidInput for a bad
    row. Each run is told to `learn`. `batcher` takes what is not quick, and settles its futures on the loop.
    """

    def __init__(
        self, check: Callable[[NDArray[Any]], Array], run: Callable[[NDArray[Any]], Array], batcher: Batcher
    ) -> None:
        self._check, self._run, self._batcher = check, run, batcher
        self._loop = asyncio.get_running_loop()
        self._waiting: list[_Waiting] = []
        self._rows = self._away = 0  # contexts that wait for the end of a turn; requests that the Batcher has
        self._turns = 0  # that may bring nothing before what waits is a batch
        self._last = 1  # requests of the last batch
        self._seconds: dict[int, float] = {}  # that a batch is expected to take, by the bits of its size

    @property
    def pending(self) -> int:
        """How many contexts wait for a batch."""
        return self._rows + self._batcher.pending

    def predict(self, contexts: NDArray[Any], *, staggered: bool = False) -> asyncio.Future[Array]:
        """Return the future of the answer `[r, …]`; it fails as `run` does for these contexts alone.

        Requests are `staggered` if each turn brings one at most, however many are on their way.
        """
        future: asyncio.Future[Array] = self._loop.create_future()
        if staggered and self._expected(len(contexts)) > QUICK:
            self._hand_over(contexts, future)
            return future
        if not staggered:
            self._turns = 0
        elif not self._waiting or self._turns > 0:  # others do not wait for staggered ones
            self._turns = _AFTER_ONE if self._last == 1 else _AFTER_MANY
        if not self._waiting:
            self._loop.call_soon(self._end_turn)
        self._waiting.append((contexts, future))
        self._rows += len(contexts)
        return future

    def learn(self, rows: int, seconds: float) -> None:
        """Take in what a batch took, here or in the Batcher's thread."""
        bits = rows.bit_length()
        self._seconds[bits] = _NEWEST * seconds + (1 - _NEWEST) * self._seconds.get(bits, seconds)

    def settle(self) -> None:
        """Run what waits for this turn's end, or hand it over."""
        while self._waiting:
            self._flush()

    def close(self) -> None:
        """Run what the Batcher has; any thread may call this, once all is settled."""
        self._batcher.close()

    def _end_turn(self) -> None:
        self._turns -= 1
        if self._turns <= 0 or self._rows >= self._batcher.max_batch:
            self._flush()
        if self._waiting:
            self._loop.call_soon(self._end_turn)

    def _flush(self) -> None:
        batch: list[_Waiting] = []
        rows = 0
        while self._waiting and (not batch or rows + len(self._waiting[0][0]) <= self._batcher.max_batch):
            batch.append(self._waiting.pop(0))
            rows += len(batch[-1][0])
        self._rows -= rows
        self._last = len(batch)
        batch = [request for request in batch if not request[1].cancelled()]
        if self._away or self._expected(rows) > QUICK:
            for contexts, future in batch:
                self._hand_over(contexts, future)
        elif batch:
            self._answer(batch)

    def _expected(self, rows: int) -> float:
        """Return the seconds that a batch takes at most, as far as those of its size or more tell."""
        bits = rows.bit_length()
        return min((seconds for size, seconds in list(self._seconds.items()) if size >= bits), default=math.inf)

    def _answer(self, batch: list[_Waiting]) -> None:
        try:
            contexts = batch[0][0] if len(batch) == 1 else np.concatenate([contexts for contexts, _ in batch])
            answers = self._run(contexts)
        except InvalidInput:
            if good := [request for request in batch if self._is_good(request)]:
                self._answer(good)
        except Exception as error:
            for _, future in batch:
                future.set_exception(error)
        else:
            start = 0
            for part, future in batch:
                future.set_result(answers[start : start + len(part)])
                start += len(part)

    def _is_good(self, request: _Waiting) -> bool:
        contexts, future = request
        try:
            self._check(contexts)
        except InvalidInput as error:
            future.set_exception(error)
            return False
        return True

    def _hand_over(self, contexts: NDArray[Any], future: asyncio.Future[Array]) -> None:
        try:
            prediction = self._batcher.submit(contexts)
        except LvmError as error:
            future.set_exception(error)
            return
        self._away += 1

        def settle(found: Future[Array]) -> None:
            self._away -= 1
            if future.cancelled() or found.cancelled():
                return
            error = found.exception()
            if error is None:
                future.set_result(found.result())
            else:
                future.set_exception(error)

        prediction.add_done_callback(settle)
        future.add_done_callback(lambda done: done.cancelled() and prediction.cancel())
