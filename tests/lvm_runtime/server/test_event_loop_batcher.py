"""Requests of one turn of the event loop are one batch: on the loop if that is quick, else in the Batcher's thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from lvm_runtime.batcher import Batcher
from lvm_runtime.contexts import usable_float32
from lvm_runtime.errors import InvalidInput
from lvm_runtime.server.connection import _Together
from lvm_runtime.server.event_loop_batcher import _AFTER_MANY, _AFTER_ONE, QUICK, EventLoopBatcher

CHECK = partial(usable_float32, largest_norm=100.0)
HERE = threading.main_thread()


class Model:
    """Sums contexts `[b, T, D]` over T, and notes each run's size and thread; `seconds` is what it says a run took."""

    def __init__(self, max_batch: int) -> None:
        self.runs: list[tuple[int, bool]] = []
        self.seconds = QUICK / 2
        self.gate = threading.Event()
        self.gate.set()
        deliver = asyncio.get_running_loop().call_soon_threadsafe
        batcher = Batcher(CHECK, self.run, max_batch=max_batch, max_delay_ms=0, whole=True, deliver=deliver)
        self.batcher = EventLoopBatcher(CHECK, self.run, batcher)

    def run(self, contexts: Any) -> Any:
        """Predict, in whichever thread."""
        assert self.gate.wait(20)
        checked = CHECK(contexts)
        self.runs.append((len(checked), threading.current_thread() is HERE))
        self.batcher.learn(len(checked), self.seconds)
        return checked.sum(axis=1)


def on_a_loop(body: Callable[[Model], Any], max_batch: int = 64, known: int = 64) -> Model:
    """Run `body` with a model that is known to be quick for batches of up to `known`."""

    async def run() -> Model:
        model = Model(max_batch)
        if known:
            model.batcher.learn(known, model.seconds)
        await body(model)
        model.batcher.close()
        return model

    return asyncio.run(run())


async def taken(model: Model) -> None:
    """Wait until the Batcher's thread has taken what waits."""
    while model.batcher.pending:
        await asyncio.sleep(0.001)


def some(rows: int, seed: int = 0, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(seed).standard_normal((rows, 3, 4)).astype(dtype)


def test_requests_of_a_turn_are_one_batch_and_each_gets_its_own_rows() -> None:
    parts = [some(rows, rows, dtype) for rows, dtype in ((2, np.float16), (1, np.float32), (4, np.float64))]

    async def body(model: Model) -> None:
        answers = await asyncio.gather(*map(model.batcher.predict, parts))
        for part, answer in zip(parts, answers, strict=True):
            np.testing.assert_array_equal(answer, part.astype(np.float32).sum(axis=1))

    assert on_a_loop(body).runs == [(7, True)]


def test_a_batch_runs_on_the_loop_while_its_size_is_known_to_be_quick() -> None:
    async def body(model: Model) -> None:
        for seconds in (QUICK / 2, QUICK * 20, QUICK * 20, QUICK / 100):  # what each run is said to have taken
            model.seconds = seconds
            await model.batcher.predict(some(4))
        await model.batcher.predict(some(8))  # of which nothing is known

    # unknown; quick; quick, and told to be slow; slow in the thread; of another size
    assert on_a_loop(body, known=0).runs == [(4, False), (4, True), (4, False), (4, False), (8, False)]


def test_a_smaller_batch_than_a_quick_one_is_quick() -> None:
    async def body(model: Model) -> None:
        await model.batcher.predict(some(1))

    assert on_a_loop(body, known=16).runs == [(1, True)]


def test_no_batch_is_larger_than_the_largest() -> None:
    async def body(model: Model) -> None:
        await asyncio.gather(*(model.batcher.predict(some(3)) for _ in range(5)))

    assert on_a_loop(body, max_batch=8).runs == [(6, True), (6, True), (3, True)]


def test_nothing_runs_on_the_loop_while_the_thread_runs_a_batch() -> None:
    async def body(model: Model) -> None:
        model.gate.clear()
        first = model.batcher.predict(some(1))
        await asyncio.sleep(0)
        await taken(model)
        model.batcher.learn(64, QUICK / 2)
        second = model.batcher.predict(some(2))
        await asyncio.sleep(0)
        assert model.batcher.pending == 2
        model.gate.set()
        assert [len(await answer) for answer in (first, second)] == [1, 2]

    assert on_a_loop(body, known=0).runs == [(1, False), (2, False)]


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_staggered_requests_wait_for_each_other_while_they_come() -> None:
    async def body(model: Model) -> None:
        answers = []
        for number in range(4):
            answers.append(model.batcher.predict(some(2, number), staggered=True))
            await turns(_AFTER_ONE - 1)
        assert not answers[0].done()
        for number, answer in enumerate(answers):
            np.testing.assert_array_equal(await answer, some(2, number).sum(axis=1))
        last = model.batcher.predict(some(1), staggered=True)  # after many, more may come later
        await turns(_AFTER_MANY - 1)
        assert not last.done()
        await turns(2)
        assert last.done()

    assert on_a_loop(body).runs == [(8, True), (1, True)]


def test_other_requests_do_not_wait_for_staggered_ones() -> None:
    async def body(model: Model) -> None:
        answers = [model.batcher.predict(some(1), staggered=staggered) for staggered in (True, False, True)]
        await turns(2)
        assert all(answer.done() for answer in answers)

    assert on_a_loop(body).runs == [(3, True)]


def test_staggered_requests_do_not_wait_once_they_fill_a_batch_or_if_one_is_not_quick() -> None:
    async def body(model: Model) -> None:
        full = [model.batcher.predict(some(4), staggered=True) for _ in range(2)]
        await turns(2)
        assert all(answer.done() for answer in full)
        for size in (8, 64):
            model.batcher.learn(size, QUICK * 100)
        await model.batcher.predict(some(1), staggered=True)

    assert on_a_loop(body, max_batch=8).runs == [(8, True), (1, False)]


def test_a_bad_row_fails_its_own_request_with_its_own_number() -> None:
    bad = some(3)
    bad[2, 1, 0] = np.nan

    async def body(model: Model) -> None:
        good, failed, last = await asyncio.gather(
            *(model.batcher.predict(part) for part in (some(5), bad, some(1, 1))), return_exceptions=True
        )
        assert isinstance(failed, InvalidInput)
        assert "row 2" in str(failed)
        np.testing.assert_array_equal(good, some(5).sum(axis=1))
        np.testing.assert_array_equal(last, some(1, 1).sum(axis=1))

    assert on_a_loop(body).runs == [(6, True)]


@pytest.mark.parametrize("known", [64, 0], ids=["on the loop", "in the thread"])
def test_a_failure_of_the_model_reaches_every_caller(known: int) -> None:
    async def body(model: Model) -> None:
        model.gate.wait = lambda _: False  # type: ignore[method-assign]
        for answer in [model.batcher.predict(some(1)) for _ in range(2)]:
            with pytest.raises(AssertionError):
                await answer

    assert on_a_loop(body, known=known).runs == []


def test_too_little_memory_for_a_batch_reaches_every_caller_and_the_next_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(arrays: Any) -> Any:
        raise MemoryError("not enough of it")

    async def body(model: Model) -> None:
        parts = [some(1), some(1)]
        with monkeypatch.context() as patch:
            patch.setattr(np, "concatenate", full)
            answers = [model.batcher.predict(part) for part in parts]
            found = await asyncio.wait_for(asyncio.gather(*answers, return_exceptions=True), 10)
        assert [type(error) for error in found] == [MemoryError] * 2
        await model.batcher.predict(some(3))

    assert on_a_loop(body).runs == [(3, True)]


def test_a_request_whose_caller_is_gone_is_not_run() -> None:
    async def body(model: Model) -> None:
        gone, stays = model.batcher.predict(some(2)), model.batcher.predict(some(3))
        gone.cancel()
        await stays
        for size in (3, 64):
            model.batcher.learn(size, QUICK * 100)
        model.gate.clear()
        running = model.batcher.predict(some(1), staggered=True)
        await taken(model)
        waits = model.batcher.predict(some(2), staggered=True)
        waits.cancel()
        await asyncio.sleep(0)
        model.gate.set()
        await running

    assert on_a_loop(body).runs == [(3, True), (1, False)]


def test_what_waits_is_answered_before_a_close() -> None:
    async def body(model: Model) -> None:
        waits = model.batcher.predict(some(2))
        model.batcher.settle()
        assert waits.done()

    assert on_a_loop(body).runs == [(2, True)]


def test_an_answer_is_sent_in_one_piece() -> None:
    sent: list[Any] = []

    class Transport:
        write = staticmethod(sent.append)

        def close(self) -> None:
            sent.append("closed")

        def is_closing(self) -> bool:
            return False

    async def run() -> None:
        together = _Together(Transport(), asyncio.get_running_loop())
        together.write(b"head ")
        together.write(b"body")
        assert sent == []
        await asyncio.sleep(0)
        assert sent == [b"head body"]
        together.write(b"last")
        together.close()
        assert not together.is_closing()
        await asyncio.sleep(0)

    asyncio.run(run())
    assert sent == [b"head body", b"last", "closed"]
