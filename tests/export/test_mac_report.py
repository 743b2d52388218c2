"""The report for a Mac: its layout anywhere, its measurements on macOS."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from export.mac_report import report as mac_report
from export.mac_report import runtimes
from export.mac_report.__main__ import command
from lvm_runtime.artifact.drift import DRIFT_LIMITS
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


def test_other_runtimes_are_measured_and_a_failure_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = randomised("amn")
    save_model(model, tmp_path / "amn")
    monkeypatch.setattr(runtimes, "ROUNDS", 1)
    monkeypatch.setattr(runtimes, "SECONDS", 0.001)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no|luck")

    monkeypatch.setattr(EagerBackend, "__init__", broken)
    lines = runtimes.runtimes(tmp_path, "amn", 16).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    rows = {tuple(cell[:3]): cell[3:] for cell in cells}
    assert rows["eager", "cpu", "fp32"][0] == "FAILED: RuntimeError: no/luck"
    for key in {("onnx", "cpu", "fp32"), ("onnx", "cpu", "int8")} | set(rows) - {("eager", "cpu", "fp32")}:
        assert float(rows[key][0]) <= DRIFT_LIMITS[key[2]]
        assert all(int(cell.replace(",", "")) > 0 for cell in rows[key][1:])


@pytest.mark.coreml
def test_report_of_a_small_model(tmp_path: Path) -> None:
    out = tmp_path / "report.md"
    assert command(["--out", str(out), "--dim", "64", "--models", "amn"]) == 0
    assert "FAILED" not in out.read_text()
