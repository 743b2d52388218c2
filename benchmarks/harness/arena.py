"""Measure all contenders of one architecture and batch size against each other, once per session.

A cell is one architecture at one batch size. Its contenders are built, their answers compared with the
known ones, the thread count of each is tried out, and then they take turns (`timing.interleave`). Each
benchmark test reads its own contender's part of the cell.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks.harness.background_load import seconds_elsewhere
from benchmarks.harness.contender import ANCHOR, Array, Contender, Runner
from benchmarks.harness.contenders import contender
from benchmarks.harness.workload import Workload
from lvm_runtime.artifact.drift import DRIFT_LIMITS, max_drift
from lvm_runtime.errors import one_line
from lvm_runtime.selection.timing import Timing, interleave, median_interval, speedup, speedups
from lvm_runtime.system.cpus import usable_cpus

LARGE_BATCH = 32
"""From here on every CPU has work, and one thread is not tried: in a slow second of the machine
it looked faster, and a form ran at half its speed in the whole cell."""

QUICK_BUILD = 2.0
"""Seconds. Who is built in less is built anew between the rounds, because where the weights come to lie in memory makes
the same session up to twice as fast."""

PEER_DRIFT_LIMIT = 0.02
"""A peer may be less accurate than this project allows itself, and then its drift is shown; beyond this it
computes something else, and its speed says nothing."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long a cell takes: `builds` times, bursts of `seconds` in `rounds` rounds, and more until ratios are settled.

    They are when the 95 % interval of each side's ratio to the anchor is within ± `settled`, or when that has taken
    `budget` seconds per side and build.
    """

    rounds: int
    seconds: float
    budget: float = 0.0
    builds: int = 1
    settled: float = 0.01
    max_calls: int = 200
    product_widths: tuple[int, ...] = (512, 1024)

    def interleave(self, sides: Mapping[str, Callable[[], Any]], anchor: str) -> dict[str, Timing]:
        """Time `sides`, named as in the result, against each other; `anchor` is the one that ratios are taken to."""
        began = time.perf_counter()

        def more(timings: dict[str, Timing]) -> bool:
            if time.perf_counter() - began > self.budget * len(sides):
                return False
            return any(_doubt(speedups(t, timings[anchor])) > self.settled for t in timings.values())

        return interleave(sides, rounds=self.rounds, seconds=self.seconds, max_calls=self.max_calls, more=more)


EFFORTS = {
    "full": Effort(3, 0.04, budget=0.7, builds=3),
    "quick": Effort(3, 0.02),
    "smoke": Effort(2, 0.002, product_widths=(64,)),
}


def _doubt(ratios: Sequence[float]) -> float:
    """Return half the width of the median's 95 % interval, relative to the median."""
    low, high = median_interval(ratios)
    return (high - low) / 2 / float(np.median(ratios))


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
    """What was measured of one architecture at one batch size, and which contenders failed, with the reason.

    `elsewhere` is the share of the CPUs that other programs took meanwhile. Where it is large, no figure is worth much.
    """

    measured: dict[str, Measured]
    failed: dict[str, str]
    elsewhere: float = 0.0

    def closest_peer(self, name: str) -> str | None:
        """Return the peer of equal precision that contender `name` is least ahead of; None if there is none.

        By the ratio within rounds, which is what is claimed. The peer whose median call is the shortest may have had
        the quicker moments, and be another one.
        """
        precision = self.measured[name].contender.precision
        peers = [n for n, m in self.measured.items() if not m.contender.ours and m.contender.precision == precision]
        return min(peers, key=lambda peer: self.speedup(name, peer), default=None)

    def speedup(self, name: str, over: str) -> float:
        """Return how many times as fast contender `name` is as contender `over`."""
        return speedup(self.measured[name].timing, self.measured[over].timing)

    def interval(self, name: str, over: str) -> tuple[float, float]:
        """Return the 95 % interval of `speedup`."""
        return median_interval(speedups(self.measured[name].timing, self.measured[over].timing))


class Arena:
    """Builds contenders and measures cells, each on first use."""

    def __init__(self, effort: Effort) -> None:
        self.effort = effort
        self._runners: dict[tuple[str, str, int | None], tuple[Runner, float]] = {}
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
        ready: dict[str, tuple[int | None, float]] = {}
        failed: dict[str, str] = {}
        for name in names:
            side, key = contender(name), (workload.architecture, name)
            if key in self._broken:  # an export that was refused takes as long to be refused again
                failed[name] = self._broken[key]
                continue
            try:
                runner, threads = self._at_its_best(workload, side, contexts)
                ready[name] = (threads, check(side, workload, runner, batch))
            except Exception as error:  # reported by the test of this contender; the others are still compared
                failed[name] = f"{type(error).__name__}: {one_line(error, 200)}"
                if not isinstance(error, WrongAnswers):  # they are of this batch size, and others may be right
                    self._broken[key] = failed[name]
        if not ready:
            return Cell({}, failed)
        began, spent = time.perf_counter(), seconds_elsewhere()
        timings = self._time(workload, batch, {name: threads for name, (threads, _) in ready.items()})
        elsewhere = (seconds_elsewhere() - spent) / (time.perf_counter() - began) / (os.cpu_count() or 1)
        measured = {
            name: Measured(contender(name), batch, threads, drift, timings[name])
            for name, (threads, drift) in ready.items()
        }
        return Cell(measured, failed, max(0.0, elsewhere))

    def _time(self, workload: Workload, batch: int, threads: Mapping[str, int | None]) -> dict[str, Timing]:
        """Return the timing of every contender, of all its builds; what was built anew is checked anew."""
        contexts = workload.batch(batch)
        rounds: dict[str, tuple[tuple[float, ...], ...]] = dict.fromkeys(threads, ())
        for number in range(self.effort.builds):
            sides: dict[str, Callable[[], Any]] = {}
            for name, count in threads.items():
                runner = self.runner(workload, contender(name), count, again=number > 0)
                check(contender(name), workload, runner, batch)
                sides[name] = partial(runner, contexts)
            timings = self.effort.interleave(sides, anchor=ANCHOR if ANCHOR in sides else next(iter(sides)))
            rounds = {name: rounds[name] + timing.rounds for name, timing in timings.items()}
        return {name: Timing(timed) for name, timed in rounds.items()}

    def _at_its_best(self, workload: Workload, side: Contender, contexts: Array) -> tuple[Runner, int | None]:
        """Return the runner with the thread count that suits it, and that count."""
        cpus = usable_cpus()
        if not side.takes_threads or cpus == 1:
            threads = cpus if side.takes_threads else None
            return self.runner(workload, side, threads), threads
        counts = (cpus, 1) if len(contexts) < LARGE_BATCH else (cpus,)
        best = fastest({threads: self.runner(workload, side, threads) for threads in counts}, contexts)
        return self.runner(workload, side, best), best

    def runner(self, workload: Workload, side: Contender, threads: int | None, again: bool = False) -> Runner:
        """Return the contender's runner with `threads` threads, built on first use and, if that is quick, `again`."""
        key = (workload.architecture, side.name, threads)
        if key not in self._runners or (again and self._runners[key][1] < QUICK_BUILD):
            began = time.perf_counter()
            runner = side.build(workload, threads)
            self._runners[key] = (runner, time.perf_counter() - began)
        return self._runners[key][0]


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


def fastest(runners: Mapping[int, Runner], contexts: Array) -> int:
    """Return the number of threads whose best round is the shortest; a busy moment makes none look slow by itself."""
    if len(runners) == 1:
        return next(iter(runners))
    sides = {str(threads): partial(runner, contexts) for threads, runner in runners.items()}
    timings = interleave(sides, rounds=5, seconds=0.04)  # in 10 ms, two threads once looked slower than one
    return min(runners, key=lambda threads: min(timings[str(threads)].round_medians))
