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

from lvm_runtime.backends.helper_threads import HelperThreads, Slice

SLICES: list[Slice] = [(i, i + 1) for i in range(40)]


@pytest.fixture
def helpers() -> Iterator[HelperThreads]:
    helpers = HelperThreads(2)
    yield helpers
    helpers.close()


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
    helpers = HelperThreads(size)
    for _ in range(50):
        done: list[Slice] = []
        helpers.run(partial(_note, done), iter(SLICES))
        assert sorted(done) == SLICES
    helpers.close()


def test_the_threads_work_at_the_same_time() -> None:
    helpers = HelperThreads(3)
    meeting = threading.Barrier(3, timeout=10)  # nobody passes before three are there
    threads: set[int] = set()

    def work(start: int, stop: int) -> None:
        meeting.wait()
        threads.add(threading.get_ident())

    helpers.run(work, SLICES[:3])
    assert len(threads) == 3
    assert threading.get_ident() in threads
    helpers.close()


def test_who_comes_while_the_helpers_are_taken_works_alone(helpers: HelperThreads) -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()

    def hold(start: int, stop: int) -> None:
        begun.release()
        assert go_on.wait(10)

    first = threading.Thread(target=helpers.run, args=(hold, SLICES[:2]))
    first.start()
    assert all(begun.acquire(timeout=10) for _ in range(2))  # the helper too is at work
    threads: list[int] = []
    helpers.run(lambda start, stop: threads.append(threading.get_ident()), SLICES)
    assert threads == [threading.get_ident()] * len(SLICES)
    go_on.set()
    first.join()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("guilty", ["the caller", "the helper"])
def test_an_error_comes_out_when_nobody_works_any_more(
    helpers: HelperThreads, error: type[BaseException], guilty: str
) -> None:
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
        helpers.run(work, SLICES)
    after = list(done)
    assert len(after) < len(SLICES) - 1
    assert after
    assert after[0] < 2  # the other one came to the end of its slice
    time.sleep(0.1)
    assert done == after
    again: list[int] = []
    helpers.run(lambda start, stop: again.append(start), SLICES)
    assert len(again) == len(SLICES)


def test_a_ctrl_c_before_there_are_any_says_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    ignored: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    monkeypatch.setattr("lvm_runtime.backends.helper_threads.os.getpid", interrupted)
    with pytest.raises(KeyboardInterrupt):
        HelperThreads(2)
    gc.collect()
    assert not ignored


def test_helpers_leave_with_the_crew() -> None:
    before = _helpers()
    helpers = HelperThreads(4)
    threads = _helpers() - before
    assert len(threads) == 3
    helpers.close()
    helpers.close()
    assert _eventually(lambda: not threads & _helpers())
    forgotten = HelperThreads(4)
    forgotten.run(lambda start, stop: None, SLICES)
    threads = _helpers() - before
    assert len(threads) == 3
    del forgotten
    gc.collect()
    assert _eventually(lambda: not threads & _helpers())


def test_a_run_that_is_closed_under_way_still_waits_for_the_helper() -> None:
    helpers, caller, both = HelperThreads(2), threading.get_ident(), threading.Barrier(2, timeout=10)
    done: list[int] = []

    def work(start: int, stop: int) -> None:
        both.wait()
        if threading.get_ident() == caller:
            helpers.close()
        else:
            time.sleep(0.05)
        done.append(start)

    helpers.run(work, SLICES[:2])
    assert sorted(done) == [0, 1]


def test_a_task_is_forgotten_when_it_is_done(helpers: HelperThreads) -> None:
    array = np.zeros(8)
    kept = weakref.ref(array)
    helpers.run(partial(_fill, array), SLICES)
    del array
    assert _eventually(lambda: kept() is None)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_works_alone() -> None:
    program = """
import os
from lvm_runtime.backends.helper_threads import HelperThreads
helpers, done = HelperThreads(2), []
helpers.run(lambda start, stop: None, [(0, 1), (1, 2)])
child = os.fork()
helpers.run(lambda start, stop: done.append(start), [(i, i + 1) for i in range(9)])
assert sorted(done) == list(range(9))
if child:
    assert os.waitpid(child, 0)[1] == 0
else:
    os._exit(0)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=60)
