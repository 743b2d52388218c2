"""Does a second run on the same machine say what the first one said, within the noise that both report?

What is compared is what is claimed: each side's ratio to the anchor. Two runs differ in one if their 95 % intervals do
not meet. By chance alone that happens to fewer than one in a hundred, so a few may, and their number is what decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.contenders import ANCHOR
from benchmarks.report.results import Row, Run, describe
from lvm_runtime.errors import InvalidInput

EXPECTED = 0.05
"""Share of the ratios that may differ. Where code and weights lie in memory changes from process to process, and
is no part of the noise between the rounds of one."""

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Pair:
    """A side's ratio to the anchor in two runs, with its 95 % intervals."""

    model: str
    batch: int
    contender: str
    ratios: tuple[float, float]
    intervals: tuple[Interval, Interval]

    @property
    def gap(self) -> float:
        """How far the two intervals are apart, relative to the first ratio; negative where they meet."""
        (low, high), (again_low, again_high) = self.intervals
        return max(low - again_high, again_low - high) / self.ratios[0]

    def __str__(self) -> str:
        first, again = (
            f"{ratio:.3f} [{low:.3f}, {high:.3f}]"
            for ratio, (low, high) in zip(self.ratios, self.intervals, strict=True)
        )
        return f"{self.model} batch {self.batch} {self.contender}: {first} × plain, then {again}"


def pairs(first: Run, again: Run) -> list[Pair]:
    """Return what both runs measured, the farthest apart first.

    Raises InvalidInput if they are of different machines, have nothing in common, or hold no intervals.
    """
    here, there = describe(first.machine), describe(again.machine)
    if here != there:
        raise InvalidInput(f"a re-run is one on the same machine, and these are {here} and {there}")
    found = [pair for row in first.rows if (pair := _pair(row, again.find(*row.key))) is not None]
    if not found:
        raise InvalidInput("the two runs have no ratio with an interval in common: same model, batch size and side")
    return sorted(found, key=lambda pair: -pair.gap)


def _pair(row: Row, other: Row | None) -> Pair | None:
    if other is None or row.contender == ANCHOR or row.over_anchor is None or other.over_anchor is None:
        return None
    intervals = row.interval(ANCHOR), other.interval(ANCHOR)
    if intervals[0] is None or intervals[1] is None:
        return None
    return Pair(*row.key, (row.over_anchor, other.over_anchor), (intervals[0], intervals[1]))


def verdict(found: Sequence[Pair]) -> tuple[bool, str]:
    """Return whether the second run says the same as the first, and the reasons in words."""
    differing = [pair for pair in found if pair.gap > 0]
    moved = sorted(abs(pair.ratios[1] / pair.ratios[0] - 1) for pair in found)
    lines = [
        f"{len(differing)} of {len(found)} ratios to plain differ by more than both runs' 95 % intervals allow "
        f"(up to {EXPECTED:.0%} may); ratios moved by {moved[len(moved) // 2]:.1%} at the median, "
        f"{moved[int(0.9 * (len(moved) - 1))]:.1%} at the 90th percentile, {moved[-1]:.1%} at most",
        *(f"differs: {pair}" for pair in differing),
    ]
    return len(differing) <= EXPECTED * len(found), "\n".join(lines)
