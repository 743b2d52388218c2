"""The report for a Mac: its layout anywhere, its measurements on macOS."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from export.mac_report import report as mac_report
from export.mac_report.__main__ import command
from lvm_runtime.commands import console


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


@pytest.mark.coreml
def test_report_of_a_small_model(tmp_path: Path) -> None:
    out = tmp_path / "report.md"
    assert command(["--out", str(out), "--dim", "64", "--models", "amn"]) == 0
    assert "FAILED" not in out.read_text()
