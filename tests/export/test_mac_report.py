"""The report for a Mac: its layout anywhere, its measurements on macOS."""

from __future__ import annotations

import platform
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report.__main__ import main as report_of_benchmarks
from benchmarks.report.read import read
from export.mac_report import energy, runtimes
from export.mac_report import report as mac_report
from export.mac_report.__main__ import command
from export.mac_report.coreai import summary
from export.mac_report.energy import Power
from export.mac_report.record import to_json
from lvm_runtime.artifact.drift import DRIFT_LIMITS
from lvm_runtime.backends.coreai import CoreAIBackend
from lvm_runtime.backends.eager import EagerBackend
from lvm_runtime.commands import console
from lvm_runtime.models import save_model
from tests.artifacts import randomised


def test_section_reports_a_failure_and_goes_on() -> None:
    def broken() -> str:
        raise RuntimeError("no\nluck")

    assert mac_report.section("Speed", broken) == "## Speed\n\nFAILED: RuntimeError: no luck\n"
    assert mac_report.section("Speed", lambda: "fast") == "## Speed\n\nfast\n"


@pytest.mark.skipif(platform.system() == "Darwin", reason="says what happens elsewhere")
def test_elsewhere_it_says_that_it_needs_a_mac(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert console.run(lambda: command(["--out", str(tmp_path / "report.md")])) == 1
    assert "macOS only" in capsys.readouterr().err
    assert not (tmp_path / "report.md").exists()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time little, and let one backend fail."""
    monkeypatch.setattr(runtimes, "ROUNDS", 1)
    monkeypatch.setattr(runtimes, "SECONDS", 0.001)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no|luck")

    monkeypatch.setattr(EagerBackend, "__init__", broken)


@pytest.mark.usefixtures("quick")
def test_every_runtime_is_measured_and_a_failure_is_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = randomised("amn")
    save_model(model, tmp_path / "amn")
    entries: list[dict[str, Any]] = []
    lines = [line for line in runtimes.runtimes(tmp_path, "amn", 16, entries).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    rows = {tuple(cell[:3]): cell[3:] for cell in cells}
    assert rows["eager", "cpu", "fp32"][0] == "FAILED: RuntimeError: no/luck"
    expected = {("onnx", "cpu", "fp32"), ("onnx", "cpu", "int8")}
    expected |= {(c.name, "cpu", p) for c, p in ((CoreAIBackend, "fp32"), (CoreAIBackend, "fp16")) if not c.missing()}
    for key in expected | set(rows) - {("eager", "cpu", "fp32")}:
        assert float(rows[key][0]) <= DRIFT_LIMITS[key[2]]
        assert all(int(cell.replace(",", "")) > 0 for cell in rows[key][1:4])
        assert float(rows[key][4]) > 0
    figures = tmp_path / "mac-report.json"
    figures.write_text(to_json(entries))
    assert report_of_benchmarks([str(figures)]) == 0
    assert "### A Mac, by backend and device" in (text := capsys.readouterr().out)
    assert "FAILED: RuntimeError: no/luck" in text
    assert len(entries) == len(rows)


@pytest.mark.soak
@pytest.mark.usefixtures("quick")
@pytest.mark.skipif(platform.system() == "Darwin", reason="there nothing is missing")
def test_each_section_survives_what_is_missing(tmp_path: Path) -> None:
    text, entries = mac_report.write_report(tmp_path, ["amn"], 16)
    parts = {part.splitlines()[0]: part for part in text.split("## ")[1:]}
    for title in ("amn: packages against known answers", "amn: placement by Core ML", "GELU"):
        assert "FAILED: " in parts[title]
    assert "FAILED: " in parts["amn: placement by Core AI"]
    assert "| onnx" in parts["amn: every runtime"]
    assert {each["notes"]["backend"] for each in entries} >= {"onnx", "eager"}


def stand_in(tmp_path: Path, *lines: str, status: int = 0) -> Power:
    """Return what reads a program that says `lines` after a fifth of a second, in the place of powermetrics."""
    script = tmp_path / "powermetrics.py"
    script.write_text(f"import sys, time\ntime.sleep(0.2)\nprint({chr(10).join(lines)!r})\nsys.exit({status})")
    return Power((sys.executable, str(script)))


def test_energy_is_power_by_rate(tmp_path: Path) -> None:
    power = stand_in(tmp_path, "CPU Power: 100 mW", "GPU Power: 20 mW", "Combined Power (CPU + GPU + ANE): 130 mW")
    began = time.perf_counter()
    calls: list[None] = []
    energy_of_a_row = power.millijoules(lambda: calls.append(time.sleep(0.01)), 4)
    assert energy_of_a_row == pytest.approx(130 * (time.perf_counter() - began) / (4 * len(calls)), rel=0.5)
    parts = stand_in(tmp_path, "CPU Power: 100 mW", "GPU Power: 20 mW", "ANE Power: 10 mW")
    assert parts.millijoules(lambda: time.sleep(0.01), 1) > 0


@pytest.mark.parametrize(("line", "status"), [("CPU Power: 100 mW", 1), ("must be invoked as the superuser", 0)])
def test_power_that_cannot_be_read_is_an_error_with_what_was_said(tmp_path: Path, line: str, status: int) -> None:
    with pytest.raises(RuntimeError, match=f"says no power: '{line}'"):
        stand_in(tmp_path, line, status=status).millijoules(lambda: None, 1)


def test_without_powermetrics_the_report_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy.shutil, "which", lambda name: None)
    assert energy.find_power() == (None, "energy: powermetrics is not here")


def test_operations_off_the_neural_engine_are_counted_with_the_reason() -> None:
    plan = {
        "entries": [
            {"operation_id": 1, "devices": ["NEURAL_ENGINE"], "validation": []},
            {"operation_id": 2, "devices": ["CPU"], "validation": ["rank|6"]},
            {"operation_id": 3, "devices": ["CPU"], "validation": ["rank|6"]},
        ],
        "device_histogram": {"CPU": 2, "NEURAL_ENGINE": 1},
        "operation_names": {1: "coreai.conv2d", 2: "coreai.reshape", 3: "coreai.reshape"},
    }
    assert summary(plan) == ("CPU 2, NEURAL_ENGINE 1", "2 coreai.reshape (rank/6)")


@pytest.mark.coreml
def test_report_of_a_small_model(tmp_path: Path) -> None:
    out = tmp_path / "report.md"
    assert command(["--out", str(out), "--dim", "64", "--models", "amn"]) == 0
    assert "FAILED" not in out.read_text().partition("placement by Core AI")[0]
    assert read(out.with_suffix(".json")).entries
