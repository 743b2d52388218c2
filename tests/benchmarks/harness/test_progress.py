"""What a waiting person is told: which part runs, and how long the rest will take."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.harness.progress import Progress, Unit, minutes

ROOT = Path(__file__).parents[3]


def told(units: list[Unit], seconds: dict[Unit, float]) -> list[str]:
    """Return the lines that a run through `units` writes, each of which takes its `seconds`."""
    lines: list[str] = []
    now = 0.0
    progress = Progress(lines.append)
    progress.plan(units)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.harness.progress.time", SimpleNamespace(monotonic=lambda: now))
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


LOST = """
import contextlib, os, signal
import pytest
from benchmarks.harness.progress import Stop

@pytest.fixture
def lost():
    with contextlib.suppress(KeyboardInterrupt):  # as C code does that calls Python and ignores what it raises
        os.kill(os.getpid(), signal.NUMBER)

def pytest_configure(config):
    config.pluginmanager.register(Stop())
"""


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("tests", ["def test_it(lost): pass", "def test_it(lost): pass\ndef test_more(): pass"])
def test_a_stop_is_heeded_although_its_exception_was_lost(tmp_path: Path, number: str, tests: str) -> None:
    """The test during whose set-up the signal came is not run, and neither are the others."""
    (tmp_path / "conftest.py").write_text(LOST.replace("NUMBER", number))
    (tmp_path / "test_it.py").write_text(tests)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == pytest.ExitCode.INTERRUPTED, done.stdout
    assert "passed" not in done.stdout
