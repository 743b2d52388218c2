"""The benchmarks themselves, at a small width, from the command line to the report."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness.contender import ANCHOR
from benchmarks.report.__main__ import main
from benchmarks.report.results import Row, Run
from benchmarks.report.summary import to_json

ROOT = Path(__file__).parents[2]
SELECTION = ["benchmarks/test_latency.py", "benchmarks/test_throughput.py", "benchmarks/test_sequence.py"]
OPTIONS = ["--benchmark-only", "--tiny", "--effort", "smoke", "--model", "amn", "--batch", "1,8"]


def command(*options: str) -> list[str]:
    plugins = ["-p", "pytest_benchmark.plugin", "-p", "pytest_timeout", "-p", "no:cacheprovider"]
    return [sys.executable, "-m", "pytest", "-q", *plugins, *SELECTION, *OPTIONS, *options]


def alone() -> dict[str, str]:
    """Return an environment without other plugins (seconds to load), and without what makes pytest-benchmark take a
    run for a worker, in which it times nothing."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    return kept | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def run_benchmarks(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*options), cwd=ROOT, env=alone(), capture_output=True, text=True, timeout=300)


def stored_result(path: Path) -> Path:
    """Write a summary in which our int8 form was a million times as fast as plain onnxruntime, at batch 1 and 512."""
    machine = {"processor": "Testium", "features": [], "cpus": 1, "memory_gib": 1.0, "accelerators": [], "versions": {}}
    record = {
        "suite": "latency",
        "model": "amn",
        "dim": 16,
        "batch": 1,
        "contender": "lvm-onnx-int8",
        "ours": True,
        "noise": 0.0,
    }
    rows = tuple(Row(record | {"speedup": {ANCHOR: 1e6}, "batch": batch}) for batch in (1, 512))
    path.write_text(to_json(Run("stored", machine, rows, ())))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The smallest run that has our forms, peers and a document in it, against a faster one: its file and output."""
    folder = tmp_path_factory.mktemp("benchmarks")
    path, stored = folder / "smoke.json", stored_result(folder / "stored.json")
    options = ["--backend", "onnx,onnxruntime", f"--benchmark-json={path}", f"--against={stored}", "--fail-below=0.5"]
    done = run_benchmarks(*options)
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-2000:]
    return path, done.stdout


@pytest.fixture(scope="module")
def result(run: tuple[Path, str]) -> Path:
    return run[0]


def test_a_regression_alone_fails_the_run(run: tuple[Path, str]) -> None:
    assert re.search(r"^13 passed", run[1], re.MULTILINE), run[1][-3000:]
    assert "slower: amn batch 1 lvm-onnx-int8: 0.00 of the stored run" in run[1]
    assert run[1].count("slower:") == 1
    assert "not compared: amn lvm-onnx-int8: in the stored run and not in this one, at batch 512" in run[1]
    assert "× best peer of equal precision" in run[1]


def test_a_run_says_what_it_left_out_and_why(run: tuple[Path, str]) -> None:
    """`make bench` keeps no result file to look it up in."""
    absent = json.loads(run[0].read_text())["not_measured"]
    assert absent
    told = re.findall(r"^not measured: (.*?): (.*)$", run[1], re.MULTILINE)
    assert {name: reason for names, reason in told for name in names.split(", ")} == absent


def test_every_result_carries_what_it_takes_to_believe_it(result: Path) -> None:
    body = json.loads(result.read_text())
    records = [b["extra_info"] for b in body["benchmarks"] if b["extra_info"]["suite"] in ("latency", "throughput")]
    assert {(r["model"], r["batch"], r["contender"]) for r in records} == {
        (model, batch, name)
        for model in ("amn",)
        for batch in (1, 8)
        for name in ("lvm-onnx-fp32", "lvm-onnx-int8", ANCHOR, "peer-onnxruntime-dynamic-int8")
    }
    for record in records:
        assert record["predictions_per_second"] > 0
        assert record["milliseconds"]["median"] <= record["milliseconds"]["p95"] <= record["milliseconds"]["p99"]
        assert record["share_of_product_ceiling"] > 0
        assert 0 < record["drift"] < (1e-6 if record["precision"] == "fp32" else 2e-2)
        assert record["ratio_to_best_peer"] > 0
        assert record["contender"] == ANCHOR or record["speedup"][ANCHOR] > 0
    assert body["machine_info"]["processor"]
    assert "node" not in body["machine_info"]  # the host's name is nobody's business
    assert "data" not in body["benchmarks"][0]["stats"]
    assert {b["extra_info"]["suite"] for b in body["benchmarks"]} == {"latency", "throughput", "sequence"}


def test_the_report_takes_it(result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert main([str(result), "--html", str(page)]) == 0
    assert "| AMN | int8 | onnx |" in capsys.readouterr().out
    assert page.read_text().count("<svg") == 4


@pytest.mark.parametrize(
    ("unit", "kept"),
    [pytest.param(1, set(), id="nothing"), pytest.param(2, {1}, id="one", marks=pytest.mark.soak)],
)
def test_a_run_that_is_ended_keeps_what_it_measured(tmp_path: Path, unit: int, kept: set[int]) -> None:
    """A scheduler's SIGTERM, like Ctrl-C, still writes the result file, and ends without a traceback."""
    path = tmp_path / "partial.json"
    lines: list[str] = []
    with subprocess.Popen(
        command("--backend", "onnxruntime", "-k", "not dynamic", f"--benchmark-json={path}"),
        cwd=ROOT,
        env=alone(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout or ():
            lines.append(line)
            if f"[{unit}/" in line:  # all units before it are measured
                process.terminate()
        assert process.wait(timeout=60) == pytest.ExitCode.INTERRUPTED, "".join(lines)[-3000:]
    assert "Traceback" not in "".join(lines)
    records = json.loads(path.read_text())["benchmarks"] if path.exists() else []
    measured = {b["extra_info"]["batch"] for b in records}
    assert kept <= measured
    assert len(measured) <= unit  # what the signal met may have come to its end


def test_an_unknown_model_is_a_usage_error() -> None:
    done = run_benchmarks("--model", "rnn")
    assert done.returncode == 4
    assert "--model rnn: unknown here; expected one of" in done.stderr
