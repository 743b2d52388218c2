"""Say what is being measured and how long the rest will take, and let an interrupted run keep what it has.

A unit is what is measured at once: a suite's part for one architecture, and for one batch size where it has several.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

import pytest

SECONDS = {
    "throughput": 30.0,
    "latency": 30.0,
    "forms": 7.0,
    "sequence": 25.0,
    "concurrency": 12.0,
    "training_loop": 20.0,
    "bulk": 20.0,
    "startup": 8.0,
    "overhead": 4.0,
    "export_time": 15.0,
}
"""Rough seconds of a unit on two cores with the full effort. They weigh the units against each other; how fast the
finished ones went corrects them."""

LARGE = 128
"""Batch size from which a unit takes longer than the others, in proportion to the square root of its batch size."""


class Unit(NamedTuple):
    """What is measured at once."""

    suite: str
    architecture: str
    batch: int | None

    @property
    def weight(self) -> float:
        """Expected seconds."""
        return SECONDS.get(self.suite, 10.0) * max(1.0, ((self.batch or 1) / LARGE) ** 0.5)

    def __str__(self) -> str:
        size = "" if self.batch is None else f" batch {self.batch}"
        return f"{self.suite.replace('_', ' ')}, {self.architecture}{size}"


def unit_of(item: pytest.Item) -> Unit:
    """Return the unit that a test belongs to."""
    params: dict[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
    suite = item.path.stem.removeprefix("test_")
    return Unit(suite, str(params.get("architecture", "")), params.get("batch"))


def minutes(seconds: float) -> str:
    """Format a duration for somebody who waits."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


class Progress:
    """A pytest plugin that writes a line when a unit begins."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._units: list[Unit] = []
        self._begun: list[Unit] = []
        self._start = 0.0

    def plan(self, units: list[Unit]) -> None:
        """Note what is to come; a unit's tests need not follow one another."""
        self._units = list(dict.fromkeys(units))

    def begin(self, unit: Unit) -> None:
        """Say that `unit` begins, the first time it does."""
        if unit in self._begun:
            return
        now = time.monotonic()
        self._start = self._start if self._begun else now
        done = sum(u.weight for u in self._begun)
        self._begun.append(unit)
        left = sum(u.weight for u in self._units) - done
        gone = now - self._start
        rate = (gone + 60.0) / (done + 60.0)  # the plan itself counts like a minute that went as planned
        self._write(
            f"[{len(self._begun)}/{len(self._units)}] {unit}; {minutes(gone)} gone, about {minutes(left * rate)} left"
        )

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note what was selected."""
        self.plan([unit_of(item) for item in session.items])

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        """Announce, before output is captured."""
        self.begin(unit_of(item))


class Stop:
    """A pytest plugin that ends the run, with what was measured written, on Ctrl-C or SIGTERM (`timeout`, a scheduler).

    The exception that a signal raises can be lost: it came up while PyTorch was imported, inside a callback of C, and
    the run went on. So the request is kept, and heeded before and after each test.
    """

    def __init__(self) -> None:
        self._requested = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._request)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self._requested = True
        raise KeyboardInterrupt

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """Stop before anything else is measured."""
        if self._requested:
            raise KeyboardInterrupt

    pytest_runtest_call = pytest_runtest_teardown = pytest_runtest_setup
