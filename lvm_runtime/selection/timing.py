"""Time several sides against each other, so that a slow moment of the machine hits all of them alike.

The sides take turns in bursts, in another (seeded) order in every round, so that none always follows the same
other. A burst starts with a rest and with calls that are not counted, so that each side finds its own
weights in the cache and the worker threads of the side before it asleep; what it then counts is what a
service that runs this side alone would see. Single alternating calls would measure cache misses instead.

What is claimed is a ratio of two sides. It is taken within each round, where a slow moment of the machine cancels,
and the interval around the median of the rounds says what it is worth.
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lvm_runtime.errors import InvalidInput, counted

WARM_UP_SHARE = 0.25
"""Part of a burst's time that is spent on calls that do not count, unless told otherwise; one call at least."""

REST = 0.02
"""Seconds before a burst, unless told otherwise. The worker threads of the side before keep spinning for a while
after its last call, and on all CPUs: without the rest, torch's eager mode behind an onnxruntime took 2.5 times as
long."""

LONG_CALL = 8.0
"""Bursts that a call may last and still be warmed up for in every round. A longer one is warm after its first
hundredth, and a second one for that doubles the time of the slowest cells; in the first round it runs all the same."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of every counted call of one side, a tuple per round."""

    rounds: tuple[tuple[float, ...], ...]

    @property
    def calls(self) -> tuple[float, ...]:
        """Seconds of every counted call, in the order in which they ran."""
        return tuple(seconds for burst in self.rounds for seconds in burst)

    @property
    def round_medians(self) -> tuple[float, ...]:
        """Median seconds of each round."""
        return tuple(float(np.median(burst)) for burst in self.rounds)

    def percentile(self, q: float) -> float:
        """Return the `q`-th percentile (0 to 100) of the seconds of a call."""
        return float(np.percentile(self.calls, q))

    @property
    def median(self) -> float:
        """Median seconds of a call."""
        return self.percentile(50)

    @property
    def p95(self) -> float:
        """Seconds that 95 of 100 calls stay below."""
        return self.percentile(95)

    @property
    def p99(self) -> float:
        """Seconds that 99 of 100 calls stay below."""
        return self.percentile(99)

    @property
    def spread(self) -> float:
        """Noise between rounds: (90th − 10th percentile of the rounds' medians) / median, 0.0 for one round."""
        low, middle, high = np.percentile(self.round_medians, [10, 50, 90])
        return float((high - low) / middle) if middle else math.inf


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the median of `values`, from their order and whatever their distribution.

    The true median is below the k-th smallest value only if fewer than k of n fair coins fall on one side, and k is
    the largest for which that is ≤ 2.5 % likely. Fewer than six values cannot say as much; they give their range.
    """
    ordered = sorted(values)
    n, k, tail = len(ordered), 0, 0.0
    while (tail := tail + math.comb(n, k) / 2**n) <= 0.025:
        k += 1
    k = max(k, 1)
    return ordered[k - 1], ordered[n - k]


def speedups(side: Timing, over: Timing) -> list[float]:
    """Return how many times as fast `side` was as `over` in each round, where both ran a moment apart.

    Raises InvalidInput for timings that were not taken in the same rounds.
    """
    if len(side.rounds) != len(over.rounds):
        raise InvalidInput(
            f"one side has {counted(len(side.rounds), 'round')} and the other {len(over.rounds)}; "
            "ratios need both sides from one interleave()"
        )
    return [slow / fast for slow, fast in zip(over.round_medians, side.round_medians, strict=True)]


def speedup(side: Timing, over: Timing) -> float:
    """Return how many times as fast `side` is as `over`: the median of the ratios within each round."""
    return float(np.median(speedups(side, over)))


def interleave(
    sides: Mapping[str, Callable[[], Any]],
    *,
    rounds: int = 7,
    seconds: float = 0.1,
    rest: float = REST,
    warm_up: float | None = None,
    max_calls: int = 2000,
    more: Callable[[dict[str, Timing]], bool] = lambda timings: False,
) -> dict[str, Timing]:
    """Time each side in bursts of about `seconds` and return its Timing under its name.

    Before a burst come a rest of `rest` seconds and `warm_up` seconds of calls that do not count (a quarter of the
    burst's). There are `rounds` bursts of each side, and further ones for as long as `more` asks for them when it is
    shown the timings up to then. A burst counts at least one call and at most `max_calls`. The garbage collector rests
    meanwhile.

    Raises InvalidInput without sides or rounds.
    """
    if rounds < 1 or not sides:
        raise InvalidInput(
            f"{counted(len(sides), 'side')} and {counted(rounds, 'round')}; expected at least one of each"
        )
    warm_up = seconds * WARM_UP_SHARE if warm_up is None else warm_up
    order = list(sides)
    shuffle = random.Random(0).shuffle
    bursts: dict[str, list[tuple[float, ...]]] = {name: [] for name in order}
    collecting = gc.isenabled()
    gc.disable()
    try:
        timings: dict[str, Timing] = {}
        while len(bursts[order[0]]) < rounds or more(timings):
            shuffle(order)
            for name in order:
                time.sleep(rest)
                if not bursts[name] or bursts[name][-1][0] <= LONG_CALL * seconds:
                    _warm(sides[name], warm_up)
                bursts[name].append(_burst(sides[name], seconds, max_calls))
            timings = {name: Timing(tuple(timed)) for name, timed in bursts.items()}
    finally:
        if collecting:
            gc.enable()
    return timings


def _warm(call: Callable[[], Any], seconds: float) -> None:
    began = time.perf_counter()
    call()
    while time.perf_counter() - began < seconds:
        call()


def _burst(call: Callable[[], Any], seconds: float, max_calls: int) -> tuple[float, ...]:
    timed: list[float] = []
    clock = time.perf_counter
    began = clock()
    while not timed or (clock() - began < seconds and len(timed) < max_calls):
        start = clock()
        call()
        timed.append(clock() - start)
    return tuple(timed)
