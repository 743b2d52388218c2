"""The batcher: everybody gets their own answer, whatever the others do."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lvm_runtime import InvalidInput, LvmError, Predictor
from lvm_runtime.batcher import Batcher
from tests.artifacts import some_contexts

Get = Callable[[str], Path]


class Model:
    """Doubles its input, notes the batches, and waits for `gate` if it is closed, once and not for ever."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()
        self.opened = True
        self.batches: list[int] = []

    def run(self, contexts: Any) -> Any:
        self.batches.append(len(contexts))
        self.started.set()
        if not self.gate.wait(20):
            self.opened = False
            self.gate.set()
        if (contexts == 999).any():
            raise LvmError("the model broke")
        return contexts[:, 0] * 2

    def batcher(self, **options: Any) -> Batcher:
        return Batcher(_check, self.run, **options)


class Steps:
    """A model that begins a batch only when the one before it was let go, and a clock that stands still."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self._begun: SimpleQueue[int] = SimpleQueue()
        self._go = threading.Semaphore(0)
        self._busy = False
        monkeypatch.setattr("lvm_runtime.batcher.time", SimpleNamespace(monotonic=lambda: self.now))

    def run(self, contexts: Any) -> Any:
        self._begun.put(len(contexts))
        assert self._go.acquire(timeout=20)
        return contexts[:, 0]

    def begin(self, *, soon: float = 20) -> int:
        """Let the running batch go and return the size of the next one, 0 if none begins `soon`."""
        self.let_go()
        try:
            found = self._begun.get(timeout=soon)
        except Empty:
            return 0
        self._busy = True
        return found

    def let_go(self) -> None:
        if self._busy:
            self._go.release()
            self._busy = False


def _check(value: Any) -> Any:
    if not isinstance(value, int):
        raise InvalidInput("not a number")
    return np.full((1, 1, 1), value, np.float32)


def _rows(count: int) -> Any:
    return np.full((count, 1, 1), count, np.float32)


def _worker(make: Callable[[], Batcher]) -> tuple[Batcher, threading.Thread]:
    """Return a new batcher and its thread."""
    before = set(threading.enumerate())
    batcher = make()
    (worker,) = set(threading.enumerate()) - before
    return batcher, worker


def test_many_callers_get_their_own_answers(small_artifacts: Get) -> None:
    contexts = some_contexts(200)
    with Predictor(small_artifacts("gru")) as predictor, predictor.batcher(max_batch=16) as batcher:
        expected = predictor.predict(contexts)
        with ThreadPoolExecutor(64) as pool:
            found = list(pool.map(lambda context: batcher.submit(context).result(20), contexts))
    np.testing.assert_allclose(np.stack(found), expected, rtol=0, atol=1e-6)


def test_requests_that_arrive_together_run_together() -> None:
    model = Model()
    with model.batcher(max_batch=8, max_delay_ms=60_000) as batcher:
        futures = [batcher.submit(i) for i in range(16)]
        assert [f.result(20)[0] for f in futures] == [2 * i for i in range(16)]
    assert model.batches == [8, 8]


def test_what_is_not_said_is_as_documented() -> None:
    batcher, worker = _worker(Model().batcher)
    with batcher:
        assert (batcher.max_batch, batcher.max_delay, batcher.max_pending) == (64, 0.002, 256)
        assert worker.daemon  # or a process with a batcher that nobody closes would not end
    assert inspect.signature(Batcher).parameters["adaptive"].default is False


@pytest.mark.parametrize(
    ("rows", "woken"), [([1] * 6, [0, 3]), ([3, 3, 3], [0, 1]), ([5, 1], [0])], ids=["one by one", "over", "at once"]
)
def test_the_worker_is_woken_for_a_first_request_and_when_there_are_enough(
    rows: list[int], woken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, notify, come, notified = Model(), threading.Condition.notify, [], []
    model.gate.clear()

    def note(condition: threading.Condition, n: int = 1) -> None:
        if threading.current_thread() is threading.main_thread():
            notified.append(len(come) - 1)
        notify(condition, n)

    with Batcher(_rows, model.run, max_batch=4, max_delay_ms=60_000, whole=True) as batcher:
        batcher.submit(4)
        assert model.started.wait(20)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Condition, "notify", note)
            for count in rows:
                come.append(count)
                batcher.submit(count)
        model.gate.set()
    assert notified == woken


def test_while_a_batch_runs_the_next_one_collects() -> None:
    model = Model()
    model.gate.clear()
    with model.batcher(max_batch=8, max_delay_ms=0) as batcher:
        futures = [batcher.submit(0)]
        model.started.wait(20)
        futures += [batcher.submit(i) for i in range(1, 6)]
        model.gate.set()
        assert [f.result(20)[0] for f in futures] == [2 * i for i in range(6)]
    assert model.batches == [1, 5]


def test_a_lone_request_waits_no_longer_than_the_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a minute, counted from when it came: the first three come while a batch runs, the last one while none does."""
    steps = Steps(monkeypatch)
    with Batcher(_check, steps.run, max_batch=2, max_delay_ms=60_000) as batcher:
        batcher.submit(4)
        batcher.submit(4)
        assert steps.begin() == 2
        for age in (60, 59.9, 61):
            batcher.submit(4)
            steps.now += age
            assert steps.begin() == 1
        batcher.submit(4)
        assert steps.begin(soon=0.05) == 0
        batcher.submit(4)
        assert steps.begin() == 2
        steps.let_go()


@pytest.mark.parametrize(
    ("adaptive", "scenes"),
    [
        (True, [(1, 0, 1), (3, 0, 3), (2, 0, 0), (1, 0, 3), (2, 60, 2), (2, 0, 2), (6, 0, 4), (1, 0, 0), (1, 0, 4)]),
        (False, [(4, 0, 4), (1, 60, 1), (3, 0, 0), (1, 0, 4)]),
    ],
)
def test_an_adaptive_batch_starts_when_it_is_as_large_as_the_one_before(
    adaptive: bool, scenes: list[tuple[int, float, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many requests come while a batch runs, for how many seconds they wait, and how many the next one has."""
    steps = Steps(monkeypatch)
    with Batcher(_check, steps.run, max_batch=4, max_delay_ms=60_000, adaptive=adaptive) as batcher:
        for come, seconds, begun in scenes:
            for _ in range(come):
                batcher.submit(4)
            steps.now += seconds
            assert steps.begin(soon=20 if begun else 0.05) == begun
        steps.let_go()


def test_whole_requests_count_by_their_contexts_and_are_delivered_by_batch() -> None:
    model, settled = Model(), []

    def deliver(settle: Callable[[], None]) -> None:
        assert not any(future.done() for future in futures[sum(settled) :])
        settle()
        settled.append(sum(future.done() for future in futures) - sum(settled))

    batcher = Batcher(_rows, model.run, max_batch=4, max_delay_ms=60_000, whole=True, deliver=deliver)
    model.gate.clear()
    futures = [batcher.submit(9)]
    model.started.wait(20)
    futures += [batcher.submit(rows) for rows in (3, 3, 1, 5)]
    assert batcher.pending == 12
    model.gate.set()
    batcher.close()
    assert (model.batches, settled) == ([9, 3, 4, 5], [1, 1, 2, 1])
    for future, rows in zip(futures, (9, 3, 3, 1, 5), strict=True):
        np.testing.assert_array_equal(future.result(0), np.full((rows, 1), 2.0 * rows))


def test_one_bad_request_fails_alone(small_artifacts: Get) -> None:
    contexts: list[Any] = list(some_contexts(4))
    contexts[2] = contexts[2] * np.nan
    contexts[3] = "text"
    with Predictor(small_artifacts("amn")) as predictor, predictor.batcher(max_delay_ms=50) as batcher:
        futures = [batcher.submit(context) for context in contexts]
        for future, context in zip(futures[:2], contexts[:2], strict=True):
            np.testing.assert_allclose(future.result(20), predictor.predict(context), rtol=0, atol=1e-6)
        with pytest.raises(InvalidInput, match="is nan"):
            futures[2].result(20)
        with pytest.raises(InvalidInput, match="got str"):
            futures[3].result(20)
        with pytest.raises(InvalidInput, match="got 1 context, expected one"):
            batcher.submit(some_contexts(1)).result(20)
        with pytest.raises(InvalidInput, match="got 2 contexts, expected one"):
            batcher.submit(some_contexts(2)).result(20)


def test_a_failing_model_fails_its_batch_and_not_the_next() -> None:
    model = Model()
    with model.batcher(max_batch=2, max_delay_ms=60_000) as batcher:
        broken = [batcher.submit(999), batcher.submit(1)]
        whole = [batcher.submit(2), batcher.submit(3)]
        for future in broken:
            with pytest.raises(LvmError, match="the model broke"):
                future.result(20)
        assert [f.result(20)[0] for f in whole] == [4, 6]


def test_back_pressure_is_bounded() -> None:
    model = Model()
    model.gate.clear()
    with model.batcher(max_batch=1, max_delay_ms=0, max_pending=3) as batcher:
        futures = [batcher.submit(0)]
        model.started.wait(20)
        futures += [batcher.submit(i) for i in (1, 2, 3)]
        with pytest.raises(LvmError, match="3 requests have been waiting"):
            batcher.submit(4, timeout=0.01)
        late = threading.Thread(target=lambda: futures.append(batcher.submit(5)))
        late.start()
        time.sleep(0.02)
        assert late.is_alive()  # held back
        model.gate.set()
        late.join(20)
        assert [f.result(20)[0] for f in futures] == [0, 2, 4, 6, 10]


def test_coroutines_await_and_are_held_back_without_blocking_the_loop() -> None:
    """The model waits for the loop, which waits until the queue is full and 20 coroutines want into it."""
    model = Model()
    model.gate.clear()

    async def serve() -> list[Any]:
        with model.batcher(max_batch=4, max_delay_ms=0, max_pending=4) as batcher:
            first = batcher.submit(0)
            await asyncio.to_thread(model.started.wait, 20)
            answers = [asyncio.create_task(batcher.predict(i)) for i in range(1, 21)]
            for _ in range(20):
                await asyncio.sleep(0.001)
                assert batcher.pending <= 4
            assert batcher.pending == 4
            model.gate.set()
            with pytest.raises(InvalidInput):
                await batcher.predict("text")
            return [answer[0] for answer in (await first, *await asyncio.gather(*answers))]

    assert asyncio.run(serve()) == [2 * i for i in range(21)]
    assert model.opened, "the loop was blocked"


def test_closing_drains() -> None:
    model = Model()
    model.gate.clear()
    batcher = model.batcher(max_batch=2, max_delay_ms=60_000)
    futures = [batcher.submit(i) for i in range(5)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    model.gate.set()
    closing.join(20)
    assert [f.result(0)[0] for f in futures] == [0, 2, 4, 6, 8]
    with pytest.raises(LvmError, match="closed"):
        batcher.submit(1)
    batcher.close()


def test_a_cancelled_request_is_not_run() -> None:
    model = Model()
    model.gate.clear()
    with model.batcher(max_batch=4, max_delay_ms=0) as batcher:
        batcher.submit(0)
        model.started.wait(20)
        kept, cancelled = batcher.submit(1), batcher.submit(2)
        assert cancelled.cancel()
        model.gate.set()
        assert kept.result(20)[0] == 2
        with pytest.raises(CancelledError):
            cancelled.result(20)
    assert model.batches == [1, 1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_batch": 0}, "1 or more"),
        ({"max_delay_ms": -1}, "0 or more, such as 2$"),
        ({"max_delay_ms": float("inf")}, "0 or more, such as 2$"),
        ({"max_pending": 0}, "1 or more"),
    ],
    ids=str,
)
def test_senseless_limits_are_refused(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{next(iter(options))} is .*expected a .* {expected}"):
        Model().batcher(**options)


def test_a_senseless_timeout_is_refused() -> None:
    with (
        Model().batcher() as batcher,
        pytest.raises(InvalidInput, match=r"^timeout is -1, expected .* 0 or more, such as 0\.5$"),
    ):
        batcher.submit(1, timeout=-1)


def test_a_callback_may_submit_and_close(small_artifacts: Get) -> None:
    contexts, done = some_contexts(4), threading.Event()
    with Predictor(small_artifacts("amn")) as predictor:
        batcher, worker = _worker(lambda: predictor.batcher(max_batch=1, max_delay_ms=0, max_pending=1))
        answered = 0

        def again(future: Any) -> None:
            nonlocal answered
            answered += 1
            if answered <= 10:
                for _ in range(2):  # more than there is room for
                    batcher.submit(contexts[0]).add_done_callback(again)
            elif answered == 21:
                batcher.close()
                done.set()

        batcher.submit(contexts[0]).add_done_callback(again)
        assert done.wait(20)
        worker.join(20)
        assert not worker.is_alive()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nothing_that_is_done_to_a_future_ends_the_worker() -> None:
    def leave(future: Any) -> None:
        raise SystemExit

    model = Model()
    model.gate.clear()
    with model.batcher(max_batch=6, max_delay_ms=0) as batcher:
        batcher.submit(0).add_done_callback(leave)
        model.started.wait(20)
        settled, notified, running, exits, good = (batcher.submit(i) for i in range(1, 6))
        settled.set_result(None)
        notified.cancel()
        notified.set_running_or_notify_cancel()
        running.set_running_or_notify_cancel()
        exits.add_done_callback(leave)
        model.gate.set()
        assert [good.result(20)[0], exits.result(20)[0], batcher.submit(6).result(20)[0]] == [10, 8, 12]
        assert settled.result() is None


def test_a_dropped_batcher_answers_and_frees_its_thread(small_artifacts: Get) -> None:
    with Predictor(small_artifacts("amn")) as predictor:
        batcher, worker = _worker(lambda: predictor.batcher(max_delay_ms=60_000))
        kept = weakref.ref(batcher)
        future = batcher.submit(some_contexts(1)[0])
        del batcher
        gc.collect()
        assert kept() is None
        assert future.result(20).shape == (16,)
        worker.join(20)
        assert not worker.is_alive()
