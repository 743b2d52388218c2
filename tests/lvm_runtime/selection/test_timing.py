"""The interleaved timer, driven by a clock that only moves when a side runs."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from lvm_runtime.errors import InvalidInput
from lvm_runtime.selection.timing import Timing, interleave, median_interval, speedup, speedups


class FakeTime:
    """A clock that notes each rest and takes none, and sides that take a stated time on it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.rests: list[float] = []
        self.log: list[str] = []

    def side(self, name: str, *durations: float) -> Callable[[], None]:
        """Return a call that takes the `durations` in turn."""
        state = {"calls": 0}

        def call() -> None:
            self.now += durations[state["calls"] % len(durations)]
            state["calls"] += 1
            self.log.append(name)

        return call

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.rests.append(seconds)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    """The time that the timer sees."""
    fake = FakeTime()
    monkeypatch.setattr("lvm_runtime.selection.timing.time", fake)
    return fake


def _runs(log: list[str]) -> list[str]:
    return [name for i, name in enumerate(log) if i == 0 or log[i - 1] != name]


def test_sides_take_turns_and_none_always_follows_the_same_other(time: FakeTime) -> None:
    names = "abcdef"
    timings = interleave({name: time.side(name, 1.0) for name in names}, rounds=8, seconds=4.0)
    assert [len(timings[name].rounds) for name in names] == [8] * 6
    pairs = set(pairwise(_runs(time.log)))
    assert all(len({after for before, after in pairs if before == name}) >= 3 for name in names)


def test_the_order_of_turns_is_the_same_in_every_run(time: FakeTime) -> None:
    for _ in range(2):
        interleave({name: time.side(name, 1.0) for name in "abcdef"}, rounds=8, seconds=1.0)
    assert time.log[: len(time.log) // 2] == time.log[len(time.log) // 2 :]


def test_warm_up_calls_are_not_counted(time: FakeTime) -> None:
    """They take a quarter of a burst, and a rest of 20 ms comes before."""
    slow_start = time.side("a", 0.75, 0.25, *[0.5] * 8, 60.0)
    timing = interleave({"a": slow_start}, rounds=1, seconds=4.0)["a"]
    assert timing.rounds == ((0.5,) * 8,)
    assert time.rests == [0.02]


def test_rest_and_warm_up_are_as_long_as_asked(time: FakeTime) -> None:
    sides = {"a": time.side("a", 1.0), "b": time.side("b", 1.0)}
    timings = interleave(sides, rounds=2, seconds=3.0, rest=0.5, warm_up=5.0)
    assert time.rests == [0.5] * 4
    assert [len(burst) for burst in timings["a"].rounds] == [3, 3]
    assert len(time.log) == 4 * (5 + 3)


def test_a_call_longer_than_the_burst_still_counts_once_and_warms_up(time: FakeTime) -> None:
    timing = interleave({"a": time.side("a", 20.0, 10.0)}, rounds=2, seconds=5.0)["a"]
    assert timing.rounds == ((10.0,), (10.0,))


def test_calls_of_many_bursts_warm_up_in_the_first_round_only(time: FakeTime) -> None:
    timing = interleave({"a": time.side("a", 20.0, 10.0, 11.0, 12.0)}, rounds=3, seconds=0.1)["a"]
    assert timing.rounds == ((10.0,), (11.0,), (12.0,))


def test_a_call_of_eight_bursts_still_warms_up_in_every_round(time: FakeTime) -> None:
    timing = interleave({"a": time.side("a", 9.0, 8.0)}, rounds=3, seconds=1.0)["a"]
    assert timing.rounds == ((8.0,), (8.0,), (8.0,))


def test_rounds_go_on_for_as_long_as_more_are_asked_for(time: FakeTime) -> None:
    seen = []

    def more(timings: dict[str, Timing]) -> bool:
        seen.append({name: len(timing.rounds) for name, timing in timings.items()})
        return len(timings["a"].rounds) < 5

    timings = interleave({name: time.side(name, 1.0) for name in "ab"}, rounds=3, seconds=1.0, more=more)
    assert [len(timings[name].rounds) for name in "ab"] == [5, 5]
    assert seen == [{"a": n, "b": n} for n in (3, 4, 5)]


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [(1, 0, 0), (3, 0, 2), (6, 0, 5), (8, 0, 7), (9, 1, 7), (15, 3, 11), (25, 7, 17), (50, 17, 32)],
)
def test_interval_of_the_median_is_the_textbook_one(count: int, low: int, high: int) -> None:
    """The ranks are those of the sign test's tables (from 0 here)."""
    shuffled = np.random.default_rng(0).permutation(count).tolist()
    assert median_interval(shuffled) == (low, high)


def test_interval_covers_the_median_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    intervals = [median_interval(rng.exponential(size=15).tolist()) for _ in range(2000)]
    covered = np.mean([low <= np.log(2) <= high for low, high in intervals])
    assert 0.95 <= covered <= 0.98  # 96.5 % by the binomial distribution


def test_max_calls_bounds_a_burst(time: FakeTime) -> None:
    timing = interleave({"a": time.side("a", 0.001)}, rounds=2, seconds=5.0, max_calls=7)["a"]
    assert [len(burst) for burst in timing.rounds] == [7, 7]


def test_percentiles_are_those_of_all_calls() -> None:
    rng = np.random.default_rng(0)
    calls = rng.uniform(size=(4, 50))
    timing = Timing(tuple(map(tuple, calls.tolist())))
    assert timing.median == pytest.approx(np.median(calls), rel=1e-12)
    assert timing.p95 == pytest.approx(np.percentile(calls, 95), rel=1e-12)
    assert timing.p99 == pytest.approx(np.percentile(calls, 99), rel=1e-12)


def test_spread_is_between_rounds_and_not_within() -> None:
    jumpy_calls = Timing(((1.0, 2.0, 3.0),) * 5)
    assert jumpy_calls.spread == 0.0
    assert Timing(((1.0,), (2.0,), (3.0,))).spread == pytest.approx((2.8 - 1.2) / 2.0)
    assert Timing(((5.0,),)).spread == 0.0
    assert Timing(((0.0,),) * 3).spread == math.inf


def test_speedup_pairs_the_rounds() -> None:
    fast, slow = Timing(((1.0,), (10.0,), (2.0,))), Timing(((2.0,), (40.0,), (5.0,)))
    assert speedups(fast, slow) == [2.0, 4.0, 2.5]
    assert speedup(fast, slow) == 2.5
    assert speedup(Timing(((1.0,), (3.0,), (2.0,))), Timing(((8.0,), (3.0,), (4.0,)))) == 2.0
    with pytest.raises(InvalidInput, match="2 rounds and the other 3"):
        speedup(Timing(((1.0,), (1.0,))), slow)


def test_the_garbage_collector_rests_and_comes_back(time: FakeTime) -> None:
    seen: list[bool] = []
    interleave({"a": lambda: (seen.append(gc.isenabled()), time.side("a", 1.0)())}, rounds=1, seconds=1.0)
    assert seen
    assert not any(seen)
    assert gc.isenabled()


@pytest.mark.parametrize(("sides", "rounds"), [({}, 3), ({"a": int}, 0)], ids=["no-sides", "no-rounds"])
def test_nothing_to_do_is_an_error(sides: dict[str, Callable[[], int]], rounds: int) -> None:
    with pytest.raises(InvalidInput, match="at least one"):
        interleave(sides, rounds=rounds)
