"""A caller and its helper threads, which work through the slices of one task together.

For work of a fraction of a millisecond that lets go of the interpreter lock; an executor's futures would cost 10 to
30 µs more a task.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from queue import SimpleQueue

Slice = tuple[int, int]


class HelperThreads:
    """`size` threads, the caller's among them. Safe to share: while one caller has the helpers, others run alone."""

    _at_work: Sequence[threading.Lock] = ()  # also where a Ctrl-C comes before there are any

    def __init__(self, size: int) -> None:
        self._process = os.getpid()
        self._vacant = threading.Lock()
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._at_work = [threading.Lock() for _ in range(size - 1)]
        for lock in self._at_work:
            threading.Thread(target=_help, args=(self._tasks, lock), name="lvm-helper", daemon=True).start()

    def run(self, work: Callable[[int, int], None], slices: Iterable[Slice]) -> None:
        """Call `work(start, stop)` for every slice, in any order and in several threads.

        Returns, or raises an error of `work`, when no thread works any more; an error drops the slices not yet begun.
        """
        task, at_work = _Task(work, slices), self._at_work  # which a close in the meantime empties
        # After a fork the helpers are in the parent: in the child there is only the caller.
        if os.getpid() != self._process or not self._vacant.acquire(blocking=False):
            task.take_part()
        else:
            try:
                for _ in at_work:
                    self._tasks.put(task)
                task.take_part()
                _wait(at_work)
            except BaseException:  # the helpers are still at work on the caller's arrays
                task.slices.clear()
                _wait(at_work)
                raise
            finally:
                self._vacant.release()
        if task.errors:
            raise task.errors[0]

    def close(self) -> None:
        """Let the helpers go when they are done; later callers work alone."""
        for _ in self._at_work:
            self._tasks.put(None)
        self._at_work = []

    def __del__(self) -> None:
        self.close()


class _Task:
    __slots__ = ("errors", "slices", "work")

    def __init__(self, work: Callable[[int, int], None], slices: Iterable[Slice]) -> None:
        self.work = work
        self.slices = deque(slices)
        self.errors: list[BaseException] = []

    def take_part(self) -> None:
        """Work on slices for as long as some are left."""
        while True:
            try:
                bounds = self.slices.popleft()
            except IndexError:
                return
            self.work(*bounds)


def _wait(at_work: Iterable[threading.Lock]) -> None:
    """Return when no helper works; one that wakes up later will find no slice left."""
    for lock in at_work:
        with lock:
            pass


def _help(tasks: SimpleQueue[_Task | None], at_work: threading.Lock) -> None:
    while (task := tasks.get()) is not None:
        with at_work:
            try:
                task.take_part()
            except BaseException as error:  # raised again in the caller's thread
                task.errors.append(error)
                task.slices.clear()
        del task  # it holds the caller's arrays
