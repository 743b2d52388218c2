"""The report: tables and page from a result file, and the errors for what is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.contender import ANCHOR
from benchmarks.report.__main__ import main, parse
from benchmarks.report.page import render, table_html
from benchmarks.report.reference import per_second
from benchmarks.report.results import join, read
from benchmarks.report.suites import suite_of, suite_rows, value
from benchmarks.report.tables import count, full_table, readme_section, write_readme
from lvm_runtime.errors import InvalidInput

MACHINE = {
    "processor": "Testium <9000>",
    "features": ["avx2", "avx512_vnni"],
    "cpus": 2,
    "memory_gib": 8.0,
    "accelerators": [],
    "versions": {"onnxruntime": "1.32.0"},
}
SPEEDS = {"lvm-onnx-fp32": 26_900.0, "lvm-onnx-int8": 80_000.0, ANCHOR: 17_700.0, "peer-openvino-fp32": 20_000.0}


def entry(contender: str, batch: int) -> dict[str, Any]:
    speed = SPEEDS[contender]
    precision = contender.rpartition("-")[2]
    peer = "peer-openvino-fp32" if precision == "fp32" else None
    record = {
        "suite": "latency" if batch == 1 else "throughput",
        "model": "amn",
        "contender": contender,
        "ours": contender.startswith("lvm"),
        "precision": precision,
        "device": "cpu",
        "threads": 2,
        "batch": batch,
        "predictions_per_second": speed,
        "milliseconds": {"median": 1e3 * batch / speed, "p95": 1.1e3 * batch / speed, "p99": 1.3e3 * batch / speed},
        "round_milliseconds": [
            1e3 * batch / speed * moment for moment in ((1.0, 1.0) if contender == ANCHOR else (0.98, 1.02))
        ],
        "noise": 0.031,
        "drift": 2e-13 if precision == "fp32" else 2e-4,
        "macs_rewritten": 1_515_008,
        "giga_macs_per_second": 1.515e-3 * speed,
        "weight_bytes": 6_000_000,
        "share_of_product_ceiling": 0.41,
        "share_of_roofline": 0.5,
        "speedup": {name: speed / other for name, other in SPEEDS.items() if name != contender},
        "speedup_interval": {
            ANCHOR: [0.99 * speed / SPEEDS[ANCHOR], 1.02 * speed / SPEEDS[ANCHOR]],
            "peer-openvino-fp32": [0.98 * speed / 20_000.0, 1.01 * speed / 20_000.0],
        },
        "cpus_busy_elsewhere": 0.3 if batch == 32 else 0.01,
        "best_peer_at_equal_precision": peer,
        "ratio_to_best_peer": speed / SPEEDS[peer] if peer else None,
    }
    return {"name": f"test[{contender}]", "extra_info": record, "stats": {"median": batch / speed}}


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """A result file with four contenders at two batch sizes, and one entry of another suite."""
    ceiling = {"device": "cpu", "precision": "fp32", "giga_macs_per_second": 90.0, "library": "numpy"}
    other = {"name": "test_export[amn]", "extra_info": {"suite": "export", "bytes": 12345}, "stats": {"median": 0.25}}
    body = {
        "machine_info": MACHINE,
        "datetime": "2026-01-02T03:04:05",
        "benchmarks": [*(entry(name, batch) for name in SPEEDS for batch in (1, 32)), other],
        "ceilings": {
            "products": [ceiling | {"others": {"numpy": 90.0, "torch": 70.0}}],
            "bandwidths": [{"bytes": 2**23, "giga_bytes_per_second": 50.0, "library": "numpy"}],
        },
        "not_measured": {"lvm-coreml-fp16-ane": "Core ML runs on macOS only"},
    }
    path = tmp_path / "here.json"
    path.write_text(json.dumps(body))
    return path


def test_readme_table_quotes_the_file_and_names_the_hardware(result: Path) -> None:
    text = readme_section([read(result)])
    assert "**Testium <9000>; 2 CPUs; 8.0 GiB; avx512_vnni** (onnxruntime 1.32.0; 2026-01-02; 1 cells timed" in text
    [fp32] = [line for line in text.splitlines() if line.startswith("| AMN | fp32 |")]
    assert "**26.9k** 1.52 ± 0.03 / 1.34 ± 0.03" in fp32
    [int8] = [line for line in text.splitlines() if line.startswith("| AMN | int8 |")]
    assert "**80.0k** 4.52 ± 0.09 / –" in int8
    assert "Fastest peer: in fp32 openvino (2 of 2)." in text
    [reference] = [line for line in text.splitlines() if line.startswith("| AMN | *")]
    assert "*2.02k* | *34.5k* | *200k*" in reference
    assert "not measured here" in text


def test_readme_unfolds_one_machine_and_folds_the_others(result: Path) -> None:
    here = read(result)
    text = readme_section([here, replace(here, machine=MACHINE | {"processor": "Oldium"})])
    assert text.index("**Testium") < text.index("<details><summary>Oldium") < text.index("</details>")
    assert text.count("| AMN | fp32 |") == 2
    assert text.count("| AMN | *2.02k*") == 1
    assert text.count("timed in turns with ours") == 1


def test_a_file_without_intervals_gives_ratios_alone(result: Path) -> None:
    """Results from before intervals were kept stay readable."""
    body = json.loads(result.read_text())
    for benchmark in body["benchmarks"]:
        benchmark["extra_info"].pop("speedup_interval", None)
        benchmark["extra_info"].pop("cpus_busy_elsewhere", None)
    result.write_text(json.dumps(body))
    text = readme_section([read(result)])
    assert "**26.9k** 1.52 / 1.34" in text
    assert "timed beside" not in text


def test_readme_keeps_everything_outside_the_markers(result: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("top\n<!-- benchmarks -->\nold figures\n<!-- /benchmarks -->\nbottom\n")
    write_readme(readme, [read(result)])
    first = readme.read_text()
    assert first.startswith("top\n<!-- benchmarks -->\n**Testium")
    assert first.endswith("<!-- /benchmarks -->\nbottom\n")
    assert "old figures" not in first
    write_readme(readme, [read(result)])
    assert readme.read_text() == first


def test_readme_without_markers_is_refused(result: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("no markers\n")
    with pytest.raises(InvalidInput, match="expected one line <!-- benchmarks -->"):
        write_readme(readme, [read(result)])
    assert readme.read_text() == "no markers\n"


def test_page_stands_alone_and_shows_every_part(result: Path) -> None:
    page = render([read(result), read(result)])
    for title in ("Summary", "Throughput", "Latency", "Accuracy against speed", "Roofline", "Every figure", "Machine"):
        assert f"<h2>{title}" in page
    assert page.count("<svg") == 8
    assert "Core ML runs on macOS only" in page
    assert "Testium &lt;9000&gt;" in page
    assert "Testium <9000>" not in page
    for outside in ("<script", "<link", "src=", "@import"):
        assert outside not in page


def test_runs_of_one_machine_are_joined_and_the_first_counts(result: Path, tmp_path: Path) -> None:
    body = json.loads(result.read_text())
    for benchmark in body["benchmarks"]:
        if "model" in benchmark["extra_info"]:
            benchmark["extra_info"]["predictions_per_second"] *= 2
    again = tmp_path / "again.json"
    again.write_text(json.dumps(body))
    for benchmark in body["benchmarks"]:
        if "model" in benchmark["extra_info"]:
            benchmark["extra_info"]["model"] = "gru"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(body))
    first, second, third = read(result), read(again), read(other)
    [joined] = join([first, second, third])
    assert joined.models == ["gru", "amn"]
    assert joined.select(model="amn") == list(first.rows)
    assert joined.select(model="gru") == list(third.rows)
    assert len(joined.others) == 1
    elsewhere = replace(second, machine=MACHINE | {"cpus": 8})
    assert join([first, elsewhere]) == [first, elsewhere]


def test_full_table_has_every_row_with_shares_and_drift(result: Path) -> None:
    lines = full_table(read(result)).splitlines()[2:]
    assert len(lines) == 8
    assert all("41% | 50% |" in line for line in lines)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not a pytest-benchmark result"),
        ('{"benchmarks": [], "machine_info": {}}', "of something else"),
        (None, "cannot be read"),
    ],
    ids=["broken", "list", "foreign", "missing"],
)
def test_what_is_no_result_is_refused(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InvalidInput, match=message):
        read(path)


@pytest.mark.parametrize(("factor", "status"), [(1.0, 0), (0.5, 1)], ids=["same", "halved"])
def test_fail_below_is_an_exit_code(
    factor: float, status: int, result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = json.loads(result.read_text())
    for benchmark in body["benchmarks"]:
        info = benchmark["extra_info"]
        if info.get("contender") == "lvm-onnx-int8":
            info["speedup"][ANCHOR] *= factor
    now = tmp_path / "now.json"
    now.write_text(json.dumps(body))
    assert main([str(now), "--against", str(result), "--fail-below", "0.9"]) == status
    assert ("slower: amn batch 1 lvm-onnx-int8: 0.50" in capsys.readouterr().err) == bool(status)
    assert now.with_suffix(".html").read_text().startswith("<!doctype html>")


def test_against_needs_fail_below(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["a.json", "--against", "b.json"])
    assert "belong together" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.5, "0.50"), (7.4, "7"), (873.2, "873"), (1_970, "1.97k"), (26_900, "26.9k"), (1.25e6, "1.25M")],
)
def test_count(value: float | None, text: str) -> None:
    assert count(value) == text


@pytest.mark.parametrize(
    ("key", "note", "text"),
    [
        ("rows_per_second", 41_234.5, "41.2k"),
        ("windows_per_second, ours", 812.0, "812"),
        ("bytes", 5_154_928, "5.2 MB"),
        ("share_of_backend", 0.917, "92%"),
        ("ratio", 1.0, "1.00"),
        ("ratio_interval", [1.31, 1.349], "1.31 – 1.35"),
        ("drift", 2.2e-4, "2e-04"),
        ("batcher_p99_ms", 17.26, "17.3"),
        ("callers", 64, "64"),
        ("contender", "a|b", "a/b"),
        ("minimum", None, "–"),
    ],
)
def test_notes_are_formatted_by_their_name(key: str, note: Any, text: str) -> None:
    assert value(key, note) == text


def test_each_suite_has_a_table_of_what_its_tests_noted(result: Path) -> None:
    run = read(result)
    bulk = {"fullname": "benchmarks/test_bulk.py::test_bulk[amn]", "params": {"architecture": "amn"}}
    loop = {"fullname": "benchmarks/test_training_loop.py::test_loop[gru]", "params": {"architecture": "gru"}}
    notes = {"windows_per_second": {"ours": 900.0, "obvious": 450.0}, "ratio": 2.0}
    entries = (bulk | {"extra_info": {"share_of_backend": 0.9}}, loop | {"extra_info": notes})
    assert [suite_of(entry) for entry in (*run.others, *entries)] == ["export", "bulk", "training_loop"]
    text = suite_rows(replace(run, others=(*run.others, *entries)))
    assert [line for line in text.splitlines() if line.startswith("###")] == [
        "### From file to file",
        "### Training against the obvious loop",
        "### Exports, verification included",
    ]
    assert "| model | windows/s, ours | windows/s, obvious | ratio |" in text
    assert "| GRU | 900 | 450 | 2.00 |" in text


def test_a_rerun_is_an_exit_code(result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = json.loads(result.read_text())
    again = tmp_path / "again.json"
    for factor, status in ((1.01, 0), (1.2, 1)):
        for benchmark in body["benchmarks"]:
            info = benchmark["extra_info"]
            if info.get("contender") == "lvm-onnx-int8":
                info["speedup"][ANCHOR] *= factor
                info["round_milliseconds"] = [ms / factor for ms in info["round_milliseconds"]]
        again.write_text(json.dumps(body))
        assert main([str(result), "--rerun", str(again)]) == status
        assert ("differs: amn batch 1 lvm-onnx-int8" in capsys.readouterr().err) is bool(status)


def test_reference_is_the_published_table() -> None:
    assert per_second("lstm", 1) == 1797
    assert per_second("lstm", 128) == pytest.approx(111_111, rel=1e-4)
    assert per_second("amn", 1024) is None


def test_table_html_escapes_and_marks_up() -> None:
    text = table_html("a <b> `c`\n\n| x | y |\n| --- | ---: |\n| **1** | *2* |")
    assert text == (
        "<p class=note>a &lt;b&gt; <code>c</code></p>"
        "<div class=scroll><table><thead><tr><th class=text>x</th><th>y</th></tr></thead>"
        "<tbody><tr><td class=text><b>1</b></td><td><i>2</i></td></tr></tbody></table></div>"
    )
