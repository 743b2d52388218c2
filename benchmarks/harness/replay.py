"""Hand calls that were timed elsewhere to pytest-benchmark, so that its tables, files and comparisons work.

pytest-benchmark times one test after the other, and sides that interleave need the opposite. So the arena
times, and a clock that reads out the recorded durations stands in for pytest-benchmark's timer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

_ticks: deque[float] = deque()


def recorded_clock() -> float:
    """Return the next recorded tick; the `timer` of every benchmark here (`pytest.mark.benchmark(timer=…)`)."""
    return _ticks.popleft()


def replay(benchmark: Any, seconds: Sequence[float]) -> None:
    """Give pytest-benchmark one round per duration in `seconds`."""
    _ticks.clear()
    for duration in seconds:
        _ticks.extend((0.0, duration))
    nothing: Callable[[], None] = lambda: None  # noqa: E731
    benchmark.pedantic(nothing, rounds=len(seconds))
