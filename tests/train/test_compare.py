"""The comparison: one table, one JSON document and one page that needs nothing else."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lvm_runtime.errors import ArtifactError
from tests.browser import look, needs_browser
from train.options import TrainOptions
from train.report import plots
from train.report.compare import compare
from train.report.runs import read_run, recipe_of
from train.report.table import duration
from train.run import train


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two small AMN runs: one by MSE, one by InfoNCE."""
    folder = tmp_path_factory.mktemp("runs")
    found = []
    for loss in ("mse", "infonce"):
        options = TrainOptions(
            model="amn", data="synthetic", windows=3000, dim=32, epochs=2, device="cpu", loss=loss,
            sizes={"hidden_dim": 32}, out=folder / loss,
        )  # fmt: skip
        train(options, lambda line: None)
        found.append(options.run_path)
    return found


@pytest.fixture
def text_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no page: that is most of a comparison's time, and other tests read it."""
    monkeypatch.setattr("train.report.compare.page", lambda runs, remarks: "")


def test_report_is_whole_and_self_contained(runs: list[Path], tmp_path: Path) -> None:
    table = compare(runs, tmp_path)
    assert re.search(r"\| infonce \| loss infonce, hidden_dim 32 \|", table)
    document = json.loads((tmp_path / "comparison.json").read_text())
    mse, infonce = document["runs"]
    assert mse["cosine"] > infonce["cosine"], "InfoNCE is the wrong loss here"
    page = (tmp_path / "comparison.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 9
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    first = base64.b64decode(page.partition("data:image/svg+xml;base64,")[2].partition('"')[0]).decode()
    assert "persistence (synthetic)" in first, "grey lines name the corpus that they are of"
    assert f"{mse['cosine']:.4f}" in page
    assert table.startswith("mse (validation documents) "), "the verdict comes first"
    assert re.search(r"infonce \(validation documents\) .*DOES NOT BEAT the best baseline for cosine", table)
    assert mse["validation"]["versus"]["mrr"]["baseline"] in mse["validation"]["baseline_metrics"]
    for text in (table, page):
        assert "recency average, synthetic (validation)" in text
        assert f"{mse['validation']['retrieval']['hit@10']['value']:.3f} [" in text


@needs_browser
@pytest.mark.soak
@pytest.mark.parametrize("width", [1400, 700, 400])
def test_page_in_a_browser(runs: list[Path], tmp_path: Path, width: int) -> None:
    compare(runs, tmp_path)
    assert look(tmp_path / "comparison.html", width) == ([], 9)


@pytest.mark.usefixtures("text_only")
def test_columns_without_figures_are_left_out(runs: list[Path], tmp_path: Path) -> None:
    """These runs know their ceiling and kept no test documents; neither counts an epoch 0."""
    header = next(line for line in compare(runs, tmp_path).splitlines() if line.startswith("| model |"))
    assert "| to ceiling | to its own |" in header
    assert "test:" not in header
    assert "Epoch 0" not in (tmp_path / "comparison.md").read_text()


@pytest.mark.usefixtures("text_only")
def test_start_is_named(runs: list[Path], tmp_path: Path) -> None:
    options = TrainOptions(
        model="gru", data="synthetic", windows=600, dim=16, epochs=1, device="cpu", start="baseline", test=0.1,
        sizes={"hidden_dim": 16}, out=tmp_path / "gru",
    )  # fmt: skip
    train(options, lambda line: None)
    text = compare([*runs, options.run_path], tmp_path / "report")
    assert "start baseline" in text
    assert "Epoch 0 is a model before training" in text
    assert "| test: to lin. avg [95 %] |" in text
    found = json.loads((options.run_path / "result.json").read_text())["test"]["gain"]
    assert (
        f"| {found['value']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}] (of {found['documents']} DOCUMENTS) |"
        in text
    )
    assert found["documents"] < 6
    assert "Validation documents chose the epoch" in text


@pytest.mark.usefixtures("text_only")
def test_runs_on_other_windows_are_told_apart(tmp_path: Path) -> None:
    """Two splits, and two states of a file, have the same names and numbers of windows."""
    base: dict[str, Any] = {"model": "amn", "epochs": 1, "device": "cpu", "sizes": {"hidden_dim": 8}, "split": "random"}
    rng = np.random.default_rng(0)
    folders = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1), ("d", 0)):
        if name in "ad":
            np.savez(tmp_path / "c.npz", vectors=rng.standard_normal((400, 8)), doc_ids=np.arange(400) // 20)
        options = TrainOptions(data=str(tmp_path / "c.npz"), out=tmp_path / name, seed=seed, **base)
        train(options, lambda line: None)
        folders.append(options.run_path)
    for others, same in ((folders[1:2], True), (folders[2:3], False), (folders[3:], False)):
        text = compare([folders[0], *others], tmp_path / "report")
        assert ("validated on different windows" in text) is not same
        assert text.count("recency average, c.npz") == (1 if same else 2)


def test_run_without_figures_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no figures.*lvm-runtime train"):
        compare([tmp_path / "none.run"], tmp_path)


def test_figures_belong_to_the_artifact_beside_them(runs: list[Path], tmp_path: Path) -> None:
    """Copied runs have their own artifact, and one that came later has other figures."""
    before = tmp_path / "before"
    shutil.copytree(runs[0].parent, before)
    shutil.rmtree(before / "infonce")
    shutil.copytree(runs[0].parent / "mse", before / "infonce")
    assert read_run(before / "mse.run").artifact == before / "mse"
    with pytest.raises(ArtifactError, match=r"infonce\.run: figures of another model than the one in .*infonce"):
        compare([before / "infonce.run"], tmp_path / "report")


@pytest.mark.usefixtures("text_only")
def test_runs_of_one_name_are_told_apart(runs: list[Path], tmp_path: Path) -> None:
    shutil.copytree(runs[0].parent, tmp_path / "before")
    text = compare([*runs, tmp_path / "before" / "mse.run"], tmp_path / "report")
    for name in (runs[0].parent / "mse", tmp_path / "before" / "mse", "infonce"):
        assert f"| {name} |" in text


@pytest.mark.parametrize(
    ("speeds", "ticks"),
    [
        ((142, 480), ["200", "300", "400", "500", "600"]),
        ((1180, 1260), ["1.18k", "1.2k", "1.22k", "1.24k", "1.26k", "1.28k"]),
        ((900, 12_000), ["1k", "3k", "10k"]),
    ],
    ids=["less than a decade", "nearly the same", "more than a decade"],
)
def test_speeds_are_plain_numbers(speeds: tuple[int, ...], ticks: list[str]) -> None:
    rows = [SimpleNamespace(name=f"model {speed}", speed={"32": speed}, gain=0.0) for speed in speeds]
    runs: Any = [SimpleNamespace(row=row) for row in rows]
    texts = re.findall("<!-- (.+) -->", plots.speed(runs))
    assert texts[: texts.index("predictions/s, eager on the CPU, batch 32")] == ticks


def test_a_loss_that_begins_at_zero_is_drawn() -> None:
    """As it does where all vectors are the same."""
    history = [{"epoch": 0}, {"epoch": 1, "loss": 0.0}, {"epoch": 2, "loss": 0.0}]
    runs: Any = [SimpleNamespace(row=SimpleNamespace(name="amn"), result={"history": history})]
    assert "training loss" in plots.losses(runs)


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (2.34, "2.3 s"), (59.9, "59.9 s"), (90, "1.5 min")])
def test_a_training_takes_as_long_as_it_says(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_recipe_names_only_departures() -> None:
    assert recipe_of(TrainOptions(model="amn", data="x.npz", epochs=3).to_dict()) == "reference"
    assert recipe_of(TrainOptions(model="amn", ema=0.9, sizes={"hidden_dim": 8}).to_dict()) == "ema 0.9, hidden_dim 8"


def test_train_all_trains_and_compares(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "train.all", "--data", "synthetic", "--windows", "400", "--dim", "16"]
    command += ["--epochs", "1", "--models", "amn", "gru", "--set", "hidden_dim=16", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| amn |" in done.stdout
    assert "| gru |" in done.stdout
    assert done.stdout.count("  ridge map       ") == 1, "the baselines are fitted once"
    assert done.stdout.count("with the baselines of the run before") == 1
    assert (tmp_path / "comparison" / "comparison.html").exists()
