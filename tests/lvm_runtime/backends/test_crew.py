"""Helper threads: every slice once, no waiting for others, and nobody at work once `run` is over."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from lvm_runtime.backends.crew import Crew, Slice

SLICES: list[Slice] = [(i, i + 1) for i in range(40)]


@pytest.fixture
def crew() -> Iterator[Crew]:
    crew = Crew(2)
    yield crew
    crew.close()


def _eventually(true: Callable[[], bool]) -> bool:
    """Say whether `true` becomes so within ten seconds."""
    end = time.monotonic() + 10
    while not true() and time.monotonic() < end:
        time.sleep(0.005)
    return true()


def _helpers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "lvm-helper"}


def _note(done: list[Slice], start: int, stop: int) -> None:
    done.append((start, stop))


def _fill(array: NDArray[np.float64], start: int, stop: int) -> None:
    array.fill(start)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_every_slice_is_worked_on_once(size: int) -> None:
    crew = Crew(size)
    for _ in range(50):
        done: list[Slice] = []
        crew.run(partial(_note, done), iter(SLICES))
        assert sorted(done) == SLICES
    crew.close()


def test_the_threads_work_at_the_same_time() -> None:
    crew = Crew(3)
    meeting = threading.Barrier(3, timeout=10)  # nobody passes before three are there
    threads: set[int] = set()

    def work(start: int, stop: int) -> None:
        meeting.wait()
        threads.add(threading.get_ident())

    crew.run(work, SLICES[:3])
    assert len(threads) == 3
    assert threading.get_ident() in threads
    crew.close()


def test_who_comes_while_the_helpers_are_taken_works_alone(crew: Crew) -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()

    def hold(start: int, stop: int) -> None:
        begun.release()
        assert go_on.wait(10)

    first = threading.Thread(target=crew.run, args=(hold, SLICES[:2]))
    first.start()
    assert all(begun.acquire(timeout=10) for _ in range(2))  # the helper too is at work
    threads: list[int] = []
    crew.run(lambda start, stop: threads.append(threading.get_ident()), SLICES)
    assert threads == [threading.get_ident()] * len(SLICES)
    go_on.set()
    first.join()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("guilty", ["the caller", "the helper"])
def test_an_error_comes_out_when_nobody_works_any_more(crew: Crew, error: type[BaseException], guilty: str) -> None:
    caller, both = threading.get_ident(), threading.Barrier(2, timeout=10)
    done: list[int] = []

    def work(start: int, stop: int) -> None:
        if start < 2:
            both.wait()
            if (threading.get_ident() == caller) == (guilty == "the caller"):
                raise error("no")
            time.sleep(0.05)
        done.append(start)

    with pytest.raises(error, match="no"):
        crew.run(work, SLICES)
    after = list(done)
    assert len(after) < len(SLICES) - 1
    assert after
    assert after[0] < 2  # the other one came to the end of its slice
    time.sleep(0.1)
    assert done == after
    again: list[int] = []
    crew.run(lambda start, stop: again.append(start), SLICES)
    assert len(again) == len(SLICES)


def test_helpers_leave_with_the_crew() -> None:
    before = _helpers()
    crew = Crew(4)
    threads = _helpers() - before
    assert len(threads) == 3
    crew.close()
    crew.close()
    assert _eventually(lambda: not threads & _helpers())
    forgotten = Crew(4)
    forgotten.run(lambda start, stop: None, SLICES)
    threads = _helpers() - before
    assert len(threads) == 3
    del forgotten
    gc.collect()
    assert _eventually(lambda: not threads & _helpers())


def test_a_run_that_is_closed_under_way_still_waits_for_the_helper() -> None:
    crew, caller, both = Crew(2), threading.get_ident(), threading.Barrier(2, timeout=10)
    done: list[int] = []

    def work(start: int, stop: int) -> None:
        both.wait()
        if threading.get_ident() == caller:
            crew.close()
        else:
            time.sleep(0.05)
        done.append(start)

    crew.run(work, SLICES[:2])
    assert sorted(done) == [0, 1]


def test_a_task_is_forgotten_when_it_is_done(crew: Crew) -> None:
    array = np.zeros(8)
    kept = weakref.ref(array)
    crew.run(partial(_fill, array), SLICES)
    del array
    assert _eventually(lambda: kept() is None)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_works_alone() -> None:
    program = """
import os
from lvm_runtime.backends.crew import Crew
crew, done = Crew(2), []
crew.run(lambda start, stop: None, [(0, 1), (1, 2)])
child = os.fork()
crew.run(lambda start, stop: done.append(start), [(i, i + 1) for i in range(9)])
assert sorted(done) == list(range(9))
if child:
    assert os.waitpid(child, 0)[1] == 0
else:
    os._exit(0)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=60)
