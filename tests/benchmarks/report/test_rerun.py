"""Comparing a run with a second one on the same machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.harness.contender import ANCHOR
from benchmarks.report.rerun import Pair, left_out, pairs, verdict
from benchmarks.report.results import Row, Run
from lvm_runtime.errors import InvalidInput

MACHINE = {"processor": "Testium", "features": ["avx2"], "cpus": 2, "memory_gib": 8.0, "accelerators": []}


def row(contender: str, ratio: float, noise: float = 0.02, **values: Any) -> Row:
    """A side whose rounds lie at both ends of `ratio` ± `noise`."""
    rounds = [1 / (ratio * (1 + sign * noise)) for sign in (-1, 1) for _ in range(5)]
    record = {"model": "amn", "batch": 32, "contender": contender, "speedup": {ANCHOR: ratio}}
    return Row(record | {"round_milliseconds": rounds} | values)


def run(*rows: Row, **machine: Any) -> Run:
    return Run("run", MACHINE | machine, (row(ANCHOR, 1.0, 0.0), *rows), ())


def test_ratios_whose_rounds_meet_are_the_same() -> None:
    found = pairs(run(row("a", 1.00), row("b", 2.0)), run(row("a", 1.03), row("b", 1.95)))
    same, why = verdict(found)
    assert same
    assert why.startswith("0 of 2 ratios to plain differ")
    assert "3.0% at most" in why


@pytest.mark.parametrize("risen", [True, False], ids=["risen", "fallen"])
def test_a_ratio_that_moved_beyond_the_rounds_of_both_is_named(risen: bool) -> None:
    runs = [run(row("a", ratio), row("b", 2.0)) for ratio in (1.00, 1.06)]
    ranges = ["1.000 [0.980, 1.020]", "1.060 [1.039, 1.081]"]
    first, then = (0, 1) if risen else (1, 0)
    same, why = verdict(pairs(runs[first], runs[then]))
    assert not same
    assert "1 of 2 ratios" in why
    assert f"differs: amn batch 32 a: {ranges[first]} × plain, then {ranges[then]}" in why
    assert "b:" not in why
    assert ("6.0% at most" if risen else "5.7% at most") in why


@pytest.mark.parametrize("ratios", [(1.0, 2.0), (2.0, 1.0)], ids=["risen", "fallen"])
def test_ranges_that_touch_meet(ratios: tuple[float, float]) -> None:
    """From 1 to 1.5, and from 1.5 to 2: exact in binary."""
    ranges = {1.0: (1.0, 1.5), 2.0: (1.5, 2.0)}
    first, then = ratios
    pair = Pair("amn", 32, "a", ratios, (ranges[first], ranges[then]), (ranges[first], ranges[then]))
    assert pair.gap == 0
    assert not pair.beyond_intervals
    assert verdict([pair])[0]


def test_what_the_narrower_intervals_would_say_is_told_too() -> None:
    interval = {ANCHOR: [0.99, 1.01]}
    first, again = row("a", 1.00, speedup_interval=interval), row("a", 1.03, speedup_interval={ANCHOR: [1.02, 1.04]})
    same, why = verdict(pairs(run(first, row("b", 2.0)), run(again, row("b", 2.0))))
    assert same
    assert "by the narrower 95 % intervals, which know one session each, 1 differ" in why


def test_few_of_many_may_differ() -> None:
    first = run(*(row(f"side-{i}", 1.0) for i in range(40)))
    for moved, expected in ((2, True), (3, False)):
        again = run(*(row(f"side-{i}", 1.5 if i < moved else 1.0) for i in range(40)))
        assert verdict(pairs(first, again))[0] is expected


def test_the_anchor_and_rows_without_rounds_are_left_out() -> None:
    old = row("old", 1.0, round_milliseconds=[])
    [pair] = pairs(run(old, row("a", 1.0)), run(old, row("a", 1.0), row("only-here", 1.0)))
    assert pair.contender == "a"


def test_what_is_not_compared_is_named_with_its_reason() -> None:
    """A form that fails in the second run is none that says the same."""
    first = run(row("a", 1.0), row("gone", 2.0), row("gone", 2.0, batch=8), row("old", 1.0, round_milliseconds=[]))
    again = replace(run(row("a", 1.0), row("new", 3.0), row("old", 1.0)), not_measured={"gone": "openvino is missing"})
    assert left_out(first, again, pairs(first, again)) == [
        "amn gone: in the first run only, at batch 8, 32 (openvino is missing)",
        "amn old: in both runs, of which one keeps no rounds, at batch 32",
        "amn new: in the second run only, at batch 32",
    ]


@pytest.mark.parametrize(
    ("again", "message"),
    [
        (run(row("a", 1.0), cpus=64), "same machine"),
        (run(row("other", 1.0)), "no ratio with its rounds in common"),
    ],
    ids=["machine", "sides"],
)
def test_what_cannot_be_compared_is_an_error(again: Run, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        pairs(run(row("a", 1.0)), again)
