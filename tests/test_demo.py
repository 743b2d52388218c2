"""The demo, as a user runs it: every step of the project's main job in one process."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lvm_runtime import Predictor
from lvm_runtime.artifact.folder import Artifact

ROOT = Path(__file__).parents[1]


@pytest.mark.soak
def test_the_demo_ends_with_its_table_and_an_artifact_that_serves(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    command = [sys.executable, "-m", "demo", "--out", str(out), "--epochs", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    table = re.findall(r"^  (eager|torchscript|onnx|native|mlx|coreml|coreai) +(\w+) ", done.stdout, re.MULTILINE)
    served = {(c.format, c.precision) for c in Artifact.load(out).manifest.compiled if c.form == "context"}
    assert set(table) == {("eager", "fp32"), *served}
    everywhere = {"torchscript", "onnx", "coreml"}  # native needs a compiler, mlx and coreai their libraries
    assert {format for format, _ in served} - {"native", "mlx", "coreai"} == everywhere
    exported = [line for line in done.stdout.splitlines() if "   verified   " in line]
    assert len({line.index(" MB ") for line in exported}) == 1, exported
    gain = re.search(r"above the linear average by (-?\d\.\d+) \[", done.stdout)
    assert gain is not None, done.stdout
    assert float(gain[1]) > 0
    with Predictor(out) as predictor:
        assert predictor.config.architecture == "amn"
