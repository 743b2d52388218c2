"""What a waiting person is told: which part runs, and how long the rest will take."""

from __future__ import annotations

from benchmarks.harness.progress import Progress, Unit, minutes


def told(units: list[Unit], seconds: dict[Unit, float]) -> list[str]:
    """Return the lines that a run through `units` writes, each of which takes its `seconds`."""
    lines: list[str] = []
    now = 0.0
    progress = Progress(lines.append, clock=lambda: now)
    progress.plan(units)
    for unit in units:
        progress.begin(unit)
        now += seconds.get(unit, 0.0)
    return lines


def test_a_unit_is_announced_once_and_in_words() -> None:
    unit = Unit("training_loop", "amn", None)
    assert told([unit, unit], {}) == ["[1/1] training loop, amn; 0 s gone, about 20 s left"]
    assert str(Unit("throughput", "gru", 32)) == "throughput, gru batch 32"


def test_what_is_left_follows_the_plan_while_the_plan_holds() -> None:
    units = [Unit("throughput", "amn", batch) for batch in (8, 32, 128)]
    lines = told(units, {unit: unit.weight for unit in units})
    assert [line.partition("; ")[2] for line in lines] == [
        "0 s gone, about 2 min left",
        "30 s gone, about 60 s left",
        "60 s gone, about 30 s left",
    ]


def test_what_is_left_grows_when_the_machine_is_slower_than_planned() -> None:
    units = [Unit("throughput", "amn", batch) for batch in (8, 32)]
    assert told(units, {units[0]: 300.0})[1].endswith("5 min gone, about 2 min left")


def test_large_batches_weigh_more() -> None:
    assert Unit("throughput", "amn", 1024).weight > 2 * Unit("throughput", "amn", 32).weight


def test_minutes() -> None:
    assert [minutes(s) for s in (4.4, 89, 91, 1500)] == ["4 s", "89 s", "2 min", "25 min"]
