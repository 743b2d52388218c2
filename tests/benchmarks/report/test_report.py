"""The report: tables, documents, summary and page from a result file, and the errors for what is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.contender import ANCHOR
from benchmarks.report.__main__ import main, parse
from benchmarks.report.documents import readme_section, results_page, results_text, write_readme
from benchmarks.report.page import render, table_html
from benchmarks.report.read import read
from benchmarks.report.reference import per_second
from benchmarks.report.results import join, newest_first, rows_of
from benchmarks.report.suites import SUITES, suite_rows, value
from benchmarks.report.tables import count, faster_peers, full_table, machine_section
from lvm_runtime.errors import InvalidInput
from tests.benchmarks.report.sample import MACHINE, entry
from tests.browser import look, needs_browser

ROOT = Path(__file__).parents[3]


def test_results_quote_the_file_and_name_the_hardware(result: Path) -> None:
    text = results_text([read(result)])
    assert "### Testium <9000>; 2 CPUs; 8.0 GiB; avx512_vnni\n\nMeasured on 2026-01-02 with onnx" in text
    assert "onnxruntime 1.32.0; 1 cell timed" in text
    lines = text.splitlines()
    assert "| AMN | fp32 | onnx | OpenVINO | 32 | 26.9k | 1.52 ± 0.03 | 1.34 ± 0.03 | 2e-13 |" in lines
    assert "| AMN | int8 | onnx | – | 1 | 80.0k | 4.52 ± 0.09 | – | 2e-04 |" in lines
    assert "| AMN | *2.02k* | *34.5k* | *200k* |" in lines
    assert "not measured here" in text


def test_a_file_without_intervals_gives_ratios_alone(result: Path) -> None:
    """Results from before intervals were kept stay readable."""
    body = json.loads(result.read_text())
    for benchmark in body["benchmarks"]:
        benchmark["extra_info"].pop("speedup_interval", None)
        benchmark["extra_info"].pop("cpus_busy_elsewhere", None)
    result.write_text(json.dumps(body))
    text = results_text([read(result)])
    assert "| 26.9k | 1.52 | 1.34 |" in text
    assert "timed beside" not in text


@pytest.mark.parametrize(
    ("batches", "engine"), [((1, 128), "the native engine"), ((1,), "the faster of the native engine and onnxruntime")]
)
@pytest.mark.parametrize(("precision", "fast", "slow"), [("int8", "120k", "80.0k"), ("fp32", "35.4k", "26.9k")])
def test_tables_show_the_fastest_of_ours(
    result: Path, precision: str, fast: str, slow: str, batches: tuple[int, ...], engine: str
) -> None:
    body, native = json.loads(result.read_text()), f"lvm-native-{precision}"
    body["benchmarks"] += [entry(f"lvm-onnx-{precision}", 128), *(entry(native, batch) for batch in batches)]
    result.write_text(json.dumps(body))
    section = readme_section(read(result))
    (cells,) = [line.split(" | ")[1:] for line in section.splitlines() if line.startswith("| AMN")]
    assert cells[precision == "fp32"] == fast
    assert cells[2 + (precision == "fp32")].removesuffix(" |") == (fast if 128 in batches else slow)
    said = "Ours in fp32 runs on" if precision == "fp32" else "In int8 it runs on"
    assert f"{said} {engine} and is " in section
    assert f"| AMN | {precision} | native | " in results_text([read(result)])


def test_a_faster_peer_is_named_with_what_it_costs(result: Path) -> None:
    assert faster_peers(read(result)) == "No peer is faster in the same precision."
    body = json.loads(result.read_text())
    peer = "peer-onnxruntime-dynamic-int8"
    for info in [benchmark["extra_info"] for benchmark in body["benchmarks"]]:
        if info.get("contender") == "peer-openvino-fp32":
            info |= {"contender": peer, "precision": "int8", "drift": 1e-3}
        if info.get("contender") == "lvm-onnx-int8":
            share = 0.6 if info["batch"] == 1 else 0.98
            info |= {"best_peer_at_equal_precision": peer, "ratio_to_best_peer": share}
            info["speedup_interval"][peer] = [share - 0.05, share + 0.05]
    result.write_text(json.dumps(body))
    assert faster_peers(read(result)) == (
        "For the AMN (batch 1) onnxruntime's `quantize_dynamic` is faster than our int8: ours reaches 0.60 of its "
        "speed. Its drift is up to 1e-03, ours up to 2e-04."
    )


def test_a_ratio_below_one_within_its_interval_is_not_called_a_win(result: Path) -> None:
    body = json.loads(result.read_text())
    for info in [benchmark["extra_info"] for benchmark in body["benchmarks"]]:
        if (info.get("contender"), info.get("batch")) == ("lvm-onnx-fp32", 1):
            info["ratio_to_best_peer"] = 0.98
            info["speedup_interval"]["peer-openvino-fp32"] = [0.95, 1.01]
    result.write_text(json.dumps(body))
    said = "No peer is faster in the same precision, beyond the interval of a ratio."
    assert faster_peers(read(result)) == said
    assert f" {said} " in readme_section(read(result))
    assert faster_peers(read(result), batches=(32,)) == "No peer is faster in the same precision."


def test_readme_has_one_table_of_four_figures_a_model(result: Path) -> None:
    text = readme_section(read(result))
    assert [line for line in text.splitlines() if line.startswith("| AMN")] == ["| AMN | 80.0k | 26.9k | – | – |"]
    assert "Measured on Testium <9000> with 2 CPUs." in text
    assert "Ours in fp32 runs on onnxruntime and is 1.52 times as fast as plain onnxruntime" in text
    assert "In int8 it runs on onnxruntime and is 4.52 times as fast." in text


def test_a_summary_says_the_same_in_less(result: Path, tmp_path: Path) -> None:
    """Every part of the report, and both comparisons, work on either."""
    short = tmp_path / "summary.json"
    assert main([str(result), "--summary", str(short)]) == 0
    whole, kept = read(result), read(short)
    assert len(short.read_text()) < len(result.read_text()) / 2
    assert results_text([kept]) == results_text([whole])
    assert full_table(kept) == full_table(whole)
    assert suite_rows(kept, SUITES) == suite_rows(whole, SUITES)
    assert render([kept]).count("<svg") == 4
    assert main([str(short), "--rerun", str(result), "--against", str(result), "--fail-below", "0.99"]) == 0
    again = tmp_path / "again.json"
    assert main([str(short), "--summary", str(again)]) == 0
    assert again.read_text() == short.read_text()


def test_a_summary_of_another_schema_or_of_two_machines_is_refused(result: Path, tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text('{"schema": 0}')
    with pytest.raises(InvalidInput, match="schema 0, expected 1"):
        read(path)
    other = tmp_path / "other.json"
    other.write_text(result.read_text().replace("Testium", "Oldium"))
    with pytest.raises(InvalidInput, match="these are of 2"):
        main([str(result), str(other), "--summary", str(path)])


def test_the_stored_results_are_small_and_give_the_documents() -> None:
    files = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    runs = newest_first(join(read(file) for file in files))
    assert len(runs) == 5  # three machines; two of them again, with the native engine
    assert (ROOT / "docs" / "results.md").read_text() == results_page(runs, "results.svg")
    assert readme_section(runs[0]) in (ROOT / "README.md").read_text()
    figures = [cell for line in readme_section(runs[0]).splitlines()[2:6] for cell in line.split("|")[2:-1]]
    assert len(figures) == 16
    for file in (*files, ROOT / "docs" / "results.svg"):
        assert file.stat().st_size < 200_000, file


def test_docs_come_with_their_plot(result: Path, tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    assert main([str(result), "--docs", str(page)]) == 0
    assert page.read_text().startswith("<!-- Made by: python -m benchmarks.report")
    plot = page.with_suffix(".svg").read_text()
    for label in ("AMN", "lvm_runtime int8", "plain onnxruntime fp32", "fastest peer, any precision"):
        assert label in plot


def test_readme_keeps_everything_outside_the_markers(result: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("top\n<!-- benchmarks -->\nold figures\n<!-- /benchmarks -->\nbottom\n")
    write_readme(readme, read(result))
    first = readme.read_text()
    assert first.startswith("top\n<!-- benchmarks -->\n| predictions/s |")
    assert first.endswith("<!-- /benchmarks -->\nbottom\n")
    assert "old figures" not in first
    write_readme(readme, read(result))
    assert readme.read_text() == first


def test_readme_without_markers_is_refused(result: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("no markers\n")
    with pytest.raises(InvalidInput, match="expected one line <!-- benchmarks -->"):
        write_readme(readme, read(result))
    assert readme.read_text() == "no markers\n"


@needs_browser
@pytest.mark.soak
@pytest.mark.parametrize(("machines", "width"), [(1, 1400), (2, 1400), (2, 400)])
def test_stored_results_in_a_browser(tmp_path: Path, machines: int, width: int) -> None:
    runs = newest_first([read(path) for path in sorted((ROOT / "benchmarks" / "results").glob("*-1-all.json"))])
    page = tmp_path / "page.html"
    page.write_text(render(runs[:machines]))
    wrong, pictures = look(page, width)
    assert not wrong
    assert pictures >= 4 * machines


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
    assert len(joined.entries) == 1
    elsewhere = replace(second, machine=MACHINE | {"cpus": 8})
    assert join([first, elsewhere]) == [first, elsewhere]


def test_vectors_of_two_sizes_are_two_sections(result: Path) -> None:
    first = read(result)
    wider = replace(first, rows=rows_of(row.record | {"dim": 1024} for row in first.rows))
    assert join([first, wider]) == [first, wider]
    headings = [machine_section(run).splitlines()[0] for run in (first, wider)]
    assert headings[1] == f"{headings[0]}, vectors of 1024"


def test_full_table_has_every_row_with_shares_and_drift(result: Path) -> None:
    lines = full_table(read(result)).splitlines()[2:]
    assert len(lines) == 8
    assert all("41% | 50% |" in line for line in lines)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "neither a pytest-benchmark result nor a summary"),
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
    page = tmp_path / "now.html"
    assert main([str(now), "--against", str(result), "--fail-below", "0.9", "--html", str(page)]) == status
    assert ("slower: amn batch 1 lvm-onnx-int8: 0.50" in capsys.readouterr().err) == bool(status)
    assert page.read_text().startswith("<!doctype html>")


def test_a_form_that_was_not_measured_again_is_named(
    result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = json.loads(result.read_text())
    gone = [one for one in body["benchmarks"] if one["extra_info"].get("contender") == "lvm-onnx-int8"]
    body["benchmarks"] = [one for one in body["benchmarks"] if one not in gone]
    now = tmp_path / "now.json"
    now.write_text(json.dumps(body))
    assert main([str(now), "--against", str(result), "--fail-below", "0.9"]) == 0
    message = "not compared: amn lvm-onnx-int8: in the stored run and not in this one, at batch 1, 32"
    assert message in capsys.readouterr().err.splitlines()
    assert main([str(result), "--rerun", str(now)]) == 0
    message = "not compared: amn lvm-onnx-int8: in the first run only, at batch 1, 32"
    assert message in capsys.readouterr().err.splitlines()


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
    body = json.loads(result.read_text())
    bulk = {"name": "b", "fullname": "benchmarks/test_bulk.py::test_bulk[amn]", "params": {"architecture": "amn"}}
    loop = {"name": "l", "fullname": "benchmarks/test_training_loop.py::t[gru]", "params": {"architecture": "gru"}}
    notes = {"windows_per_second": {"ours": 900.0, "obvious": 450.0}, "ratio": 2.0}
    body["benchmarks"] += [bulk | {"extra_info": {"share_of_backend": 0.9}}, loop | {"extra_info": notes}]
    result.write_text(json.dumps(body))
    run = read(result)
    assert [entry.suite for entry in run.entries] == ["export", "bulk", "training_loop"]
    text = suite_rows(run, SUITES)
    assert [line for line in text.splitlines() if line.startswith("###")] == [
        "### From file to file",
        "### Training against the obvious loop",
        "### Exports, verification included",
    ]
    assert "| model | windows/s, ours | windows/s, obvious | ratio |" in text
    assert "| GRU | 900 | 450 | 2.00 |" in text


def test_conversions_to_core_ai_are_among_the_results_and_do_not_become_the_first_run(
    result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = json.loads(result.read_text())
    notes = {"suite": "coreai", "model": "gru", "form": "ours, static, fp16", "cpu_seconds": 2.5, "bytes": 14_300_000}
    body |= {"datetime": "2026-02-03", "machine_info": MACHINE | {"memory_gib": 16.0}}
    body["benchmarks"] = [{"name": "c", "extra_info": notes | {"ops": 164, "drift": 8e-7}}]
    later = tmp_path / "later.json"
    later.write_text(json.dumps(body))
    assert main([str(later), str(result)]) == 0
    text = capsys.readouterr().out
    assert "| GRU | ours, static, fp16 | 2.5 | 14.3 MB | 164 | 8e-07 |" in text
    assert text.index("8.0 GiB") < text.index("16.0 GiB")
    assert text.count("faster") == results_text([read(result)]).count("faster"), "it says nothing of races"


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
