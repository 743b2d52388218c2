"""Does a second run on the same machine say what the first one said, within the noise that both report?

What is compared is what is claimed: each side's ratio to the anchor. Two runs differ in one if the ranges of their
rounds (10th to 90th percentile) do not meet. The narrower interval of the median would not do: it knows the rounds of
one session, and not that the next finds the machine in another state; by it two runs differed in a third of the
ratios.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.harness.contender import ANCHOR
from benchmarks.report.results import Row, Run, require_one_size
from lvm_runtime.errors import InvalidInput, counted
from lvm_runtime.system import machine

EXPECTED = 0.05
"""Share of the ratios that may differ. Where code and weights lie in memory changes from process to process, and
is no part of the noise between the rounds of one."""

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Pair:
    """A side's ratio to the anchor in two runs, with the ranges of the rounds and the 95 % intervals of the medians."""

    model: str
    batch: int
    contender: str
    ratios: tuple[float, float]
    ranges: tuple[Interval, Interval]
    intervals: tuple[Interval | None, Interval | None]

    @property
    def gap(self) -> float:
        """How far the two ranges are apart, relative to the first ratio; negative where they meet."""
        return _gap(*self.ranges) / self.ratios[0]

    @property
    def beyond_intervals(self) -> bool:
        """Whether the 95 % intervals, which stand beside the ratios in the tables, do not meet."""
        first, again = self.intervals
        return first is not None and again is not None and _gap(first, again) > 0

    def __str__(self) -> str:
        first, again = (
            f"{ratio:.3f} [{low:.3f}, {high:.3f}]" for ratio, (low, high) in zip(self.ratios, self.ranges, strict=True)
        )
        return f"{self.model} batch {self.batch} {self.contender}: {first} × plain, then {again}"


def _gap(first: Interval, again: Interval) -> float:
    return max(first[0] - again[1], again[0] - first[1])


def pairs(first: Run, again: Run) -> list[Pair]:
    """Return what both runs measured, the farthest apart first.

    Raises InvalidInput if they are of different machines or sizes of vectors, have nothing in common, or hold no
    rounds.
    """
    here, there = machine.line(first.machine), machine.line(again.machine)
    if here != there:
        raise InvalidInput(f"a re-run is one on the same machine, and these are {here} and {there}")
    require_one_size((*first.rows, *again.rows))
    found = [pair for row in first.rows if (pair := _pair(first, again, row)) is not None]
    if not found:
        raise InvalidInput("the two runs have no ratio with its rounds in common: same model, batch size and side")
    return sorted(found, key=lambda pair: -pair.gap)


def _pair(first: Run, again: Run, row: Row) -> Pair | None:
    other = again.find(*row.key)
    if other is None or row.contender == ANCHOR or row.over_anchor is None or other.over_anchor is None:
        return None
    ranges = _range(first, row), _range(again, other)
    if ranges[0] is None or ranges[1] is None:
        return None
    intervals = row.interval(ANCHOR), other.interval(ANCHOR)
    return Pair(*row.key, (row.over_anchor, other.over_anchor), (ranges[0], ranges[1]), intervals)


def _range(run: Run, row: Row) -> Interval | None:
    """Return between which ratios to the anchor eight of ten rounds lie, None for a file that keeps no rounds."""
    anchor = run.find(row.model, row.batch, ANCHOR)
    slow, fast = ((side.record.get("round_milliseconds") if side else None) for side in (anchor, row))
    if not slow or not fast:
        return None
    low, high = np.percentile(np.divide(slow, fast), [10, 90])
    return float(low), float(high)


def left_out(first: Run, again: Run, found: Sequence[Pair]) -> list[str]:
    """Return a line for each side with a ratio that `found`, the pairs of both runs, lacks, and the reason if known.

    Otherwise a form that fails in the second run would look like one that says the same.
    """
    with_ratio = [{row.key for row in run.rows if row.over_anchor is not None} for run in (first, again)]
    compared = {(pair.model, pair.batch, pair.contender) for pair in found}
    batches: dict[tuple[str, str, str], list[int]] = {}
    for key in dict.fromkeys(row.key for row in (*first.rows, *again.rows)):
        model, batch, contender = key
        if contender == ANCHOR or key in compared or not any(key in keys for keys in with_ratio):
            continue
        here, there = (key in keys for keys in with_ratio)
        alone = "the first run only" if here else "the second run only"
        where = "both runs, of which one keeps no rounds" if here and there else alone
        batches.setdefault((model, contender, where), []).append(batch)
    reasons = first.not_measured | again.not_measured
    return [
        f"{model} {contender}: in {where}, at batch "
        + ", ".join(map(str, sorted(sizes)))
        + (f" ({reasons[contender]})" if contender in reasons else "")
        for (model, contender, where), sizes in batches.items()
    ]


def verdict(found: Sequence[Pair]) -> tuple[bool, str]:
    """Return whether the second run says the same as the first, and the reasons in words."""
    differing = [pair for pair in found if pair.gap > 0]
    moved = sorted(abs(pair.ratios[1] / pair.ratios[0] - 1) for pair in found)
    lines = [
        f"{len(differing)} of {counted(len(found), 'ratio')} to plain differ by more than both runs' rounds allow "
        f"(up to {EXPECTED:.0%} may); ratios moved by {moved[len(moved) // 2]:.1%} at the median, "
        f"{moved[int(0.9 * (len(moved) - 1))]:.1%} at the 90th percentile, {moved[-1]:.1%} at most",
        f"by the narrower 95 % intervals, which know one session each, {sum(p.beyond_intervals for p in found)} differ",
        *(f"differs: {pair}" for pair in differing),
    ]
    return len(differing) <= EXPECTED * len(found), "\n".join(lines)
