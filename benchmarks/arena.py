"""Measure all contenders of one architecture and batch size against each other, once per session.

A cell is one architecture at one batch size. Its contenders are built, their answers compared with the
known ones, the thread count of each is tried out, and then they take turns (`timing.interleave`). Each
benchmark test reads its own contender's part of the cell.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

from benchmarks.contenders import ANCHOR, Array, Contender, Runner, contender
from benchmarks.timing import PAUSE, Timing, interleave, speedup
from benchmarks.workload import Workload
from lvm_runtime.drift import DRIFT_LIMITS, max_drift
from lvm_runtime.hardware import usable_cpus

TRIED_BELOW = 0.25
"""Seconds: where a call on all CPUs takes less, one thread is tried too; longer ones are worth every CPU."""

PEER_DRIFT_LIMIT = 0.02
"""A peer may be less accurate than this project allows itself, and then its drift is shown; beyond this it
computes something else, and its speed says nothing."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long a cell takes: rounds per contender and seconds per burst, fewer rounds where a call is slow."""

    rounds: int
    seconds: float
    max_calls: int = 200
    slow_call: float = 0.15
    slow_rounds: int = 3
    product_widths: tuple[int, ...] = (512, 1024)

    def rounds_for(self, slowest_call: float) -> int:
        """Return the rounds for a cell whose slowest call takes `slowest_call` seconds."""
        return self.rounds if slowest_call < self.slow_call else min(self.rounds, self.slow_rounds)


EFFORTS = {"full": Effort(5, 0.04), "quick": Effort(3, 0.02), "smoke": Effort(2, 0.002, product_widths=(64,))}


class WrongAnswers(AssertionError):
    """A contender's outputs are too far from the known answers for its speed to mean anything."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One contender in one cell."""

    contender: Contender
    batch: int
    threads: int | None
    drift: float
    timing: Timing

    @property
    def per_second(self) -> float:
        """Predictions per second, from the median call."""
        return self.batch / self.timing.median


@dataclass(frozen=True, slots=True)
class Cell:
    """What was measured of one architecture at one batch size, and which contenders failed, with the reason."""

    measured: dict[str, Measured]
    failed: dict[str, str]

    def best_peer(self, precision: str | None) -> Measured | None:
        """Return the fastest peer of one precision (of any, for None)."""
        peers = [
            m for m in self.measured.values() if not m.contender.ours and precision in (None, m.contender.precision)
        ]
        return min(peers, key=lambda m: m.timing.median, default=None)

    def speedup(self, name: str, over: str) -> float:
        """Return how many times as fast contender `name` is as contender `over`."""
        return speedup(self.measured[name].timing, self.measured[over].timing)


class Arena:
    """Builds contenders and measures cells, each on first use."""

    def __init__(self, effort: Effort) -> None:
        self.effort = effort
        self._runners: dict[tuple[str, str, int | None], Runner] = {}
        self._broken: dict[tuple[str, str], str] = {}
        self._cells: dict[tuple[str, int], Cell] = {}

    def cell(self, workload: Workload, batch: int, names: list[str]) -> Cell:
        """Return the cell, measured with the contenders `names` and the anchor if it has not been yet."""
        key = (workload.architecture, batch)
        if key not in self._cells:
            self._cells[key] = self._measure(workload, batch, list(dict.fromkeys([*names, ANCHOR])))
        return self._cells[key]

    def _measure(self, workload: Workload, batch: int, names: list[str]) -> Cell:
        contexts = workload.batch(batch)
        ready: dict[str, tuple[Runner, int | None, float, float]] = {}
        failed: dict[str, str] = {}
        for name in names:
            side, key = contender(name), (workload.architecture, name)
            if key in self._broken:  # an export that was refused takes as long to be refused again
                failed[name] = self._broken[key]
                continue
            try:
                runner, threads, seconds = self._at_its_best(workload, side, contexts)
                ready[name] = (runner, threads, check(side, workload, runner, batch), seconds)
            except Exception as error:  # reported by the test of this contender; the others are still compared
                failed[name] = self._broken[key] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
        if not ready:
            return Cell({}, failed)
        timings = interleave(
            {name: partial(runner, contexts) for name, (runner, *_) in ready.items()},
            rounds=self.effort.rounds_for(max(seconds for *_, seconds in ready.values())),
            seconds=self.effort.seconds,
            max_calls=self.effort.max_calls,
        )
        measured = {
            name: Measured(contender(name), batch, threads, drift, timings[name])
            for name, (_, threads, drift, _) in ready.items()
        }
        return Cell(measured, failed)

    def _at_its_best(self, workload: Workload, side: Contender, contexts: Array) -> tuple[Runner, int | None, float]:
        """Return the runner with the thread count that suits it, that count, and the seconds a call took."""
        cpus = usable_cpus()
        if not side.takes_threads or cpus == 1:
            runner = self.runner(workload, side, cpus if side.takes_threads else None)
            return runner, cpus if side.takes_threads else None, _quick_time(runner, contexts)
        tried = {}
        for threads in (cpus, 1):
            tried[threads] = _quick_time(self.runner(workload, side, threads), contexts)
            if tried[cpus] > TRIED_BELOW:
                break
        best = min(tried, key=lambda threads: tried[threads])
        return self.runner(workload, side, best), best, tried[best]

    def runner(self, workload: Workload, side: Contender, threads: int | None) -> Runner:
        """Return the contender's runner with `threads` threads, built on first use."""
        key = (workload.architecture, side.name, threads)
        if key not in self._runners:
            self._runners[key] = side.build(workload, threads)
        return self._runners[key]


def check(side: Contender, workload: Workload, runner: Runner, batch: int) -> float:
    """Return the largest row drift of a contender's answers; WrongAnswers if they are not this model's."""
    found = max_drift(runner(workload.batch(batch)), workload.answers(batch))
    limit = DRIFT_LIMITS[side.precision] if side.ours else PEER_DRIFT_LIMIT
    if not found <= limit:
        raise WrongAnswers(
            f"{side.name} on {workload.architecture} at batch {batch}: drift {found:.1e} from the known answers, "
            f"expected at most {limit:.0e}; its speed was not measured"
        )
    return found


def _quick_time(runner: Runner, contexts: Array) -> float:
    """Return the median of a few calls after a rest and one that warms up; of that one alone if it takes long."""
    time.sleep(PAUSE)
    began = time.perf_counter()
    runner(contexts)
    first = time.perf_counter() - began
    if first > 1.0:
        return first
    return interleave({"side": lambda: runner(contexts)}, rounds=3, seconds=0.01)["side"].median
