"""`python -m train.compare amn lstm`: the runs side by side, as a table, Markdown, JSON and one HTML page.

A run is named by its artifact (`amn`, `artifacts/amn`) or by its folder of figures (`artifacts/amn.run`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime import atomic, console
from lvm_runtime.artifact import DEFAULT_ROOT, Artifact
from lvm_runtime.config import ARCHITECTURES
from lvm_runtime.errors import ArtifactError, InvalidInput
from train.baselines import LINEAR_AVERAGE
from train.flops import multiply_adds
from train.options import TrainOptions
from train.results import RESULT, WINDOWS

SPEED_BATCHES = (1, 32)
_REPEATS = 15
_UNIMPORTANT = {"model", "data", "out", "resume", "checkpoint_every", "device", "seed", "windows", "dim", "test",
                "trust_pickle", "resident_bytes", "epochs"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One run in the table; cosines are on validation documents, `speed` is eager on this machine's CPU."""

    name: str
    recipe: str
    data: str
    parameters: int
    mega_flops: float
    megabytes: float
    epochs: int
    best_epoch: int
    seconds: float
    cosine: float
    low: float
    high: float
    gain: float
    gain_low: float
    gain_high: float
    test_gain: float | None
    to_ceiling: float | None
    to_own_ceiling: float | None
    hit_at_5: float
    mrr: float
    margin: float
    speed: dict[str, float]
    cosine_per_million: float


@dataclass(frozen=True, slots=True)
class Run:
    """A run's figures as read from its folder, and its row of the table."""

    row: Row
    result: dict[str, Any]
    windows: dict[str, NDArray[Any]]


def compare(folders: list[Path], out: Path) -> str:
    """Write comparison.md, .json and .html into `out`, and return the table as Markdown.

    Raises ArtifactError for a folder without a run's figures and InvalidInput for runs that cannot be compared.
    """
    from train.page import page

    runs = [read_run(folder) for folder in folders]
    digests = {(run.result["options"]["data"], len(run.windows["cosine"])) for run in runs}
    remarks = []
    if len(digests) > 1:
        remarks.append("These runs were validated on different windows: compare their gains and not their cosines.")
    text = markdown(runs, remarks)
    out.mkdir(parents=True, exist_ok=True)
    document = {"remarks": remarks, "runs": [asdict(run.row) | {"history": run.result["history"]} for run in runs]}
    atomic.write_bytes(out / "comparison.md", text.encode())
    atomic.write_bytes(out / "comparison.json", (json.dumps(document, indent=2) + "\n").encode())
    atomic.write_bytes(out / "comparison.html", page(runs, remarks).encode())
    return f"{text}\nwritten to {out}: comparison.md, comparison.json, comparison.html"


def read_run(folder: Path) -> Run:
    """Read the figures that a run left in `folder` and measure its artifact's speed here."""
    try:
        result = json.loads((folder / RESULT).read_bytes())
        with np.load(folder / WINDOWS) as arrays:
            windows = {name: arrays[name] for name in arrays.files}
        return Run(_row(folder, result), result, windows)
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(
            f"{folder}: no figures of a finished run ({error}); train it with: python -m train"
        ) from error


def find_run(name: str) -> Path:
    """Return the folder of figures that `name` means: an architecture, an artifact or the folder itself."""
    path = DEFAULT_ROOT / name if name in ARCHITECTURES and not Path(name).exists() else Path(name)
    return path if path.suffix == ".run" else path.with_name(path.name + ".run")


def _row(folder: Path, result: dict[str, Any]) -> Row:
    artifact = Artifact.load(result["artifact"])
    found, ceiling, own = result["validation"], result["ceiling"], result.get("own_ceiling")
    cosine, gain = found["cosine"], found["gain"]
    return Row(
        name=folder.name.removesuffix(".run"),
        recipe=recipe_of(result["options"]),
        data=Path(result["options"]["data"]).name,
        parameters=result["parameters"],
        mega_flops=2 * multiply_adds(artifact.config) / 1e6,
        megabytes=result["parameters"] * 4 / 2**20,
        epochs=result["history"][-1]["epoch"],
        best_epoch=result["best_epoch"],
        seconds=result["seconds"],
        cosine=cosine["value"],
        low=cosine["low"],
        high=cosine["high"],
        gain=gain["value"],
        gain_low=gain["low"],
        gain_high=gain["high"],
        test_gain=result["test"]["gain"]["value"] if result["test"] else None,
        to_ceiling=None if ceiling is None else cosine["value"] - ceiling,
        to_own_ceiling=None if own is None else cosine["value"] - own,
        hit_at_5=found["hits"]["hit@5"],
        mrr=found["mrr"],
        margin=found["margin"]["value"],
        speed=measure_speed(artifact),
        cosine_per_million=cosine["value"] / (result["parameters"] / 1e6),
    )


def recipe_of(options: dict[str, Any]) -> str:
    """Name what a run changed of the shared recipe, or "reference"."""
    changed = []
    for item in fields(TrainOptions):
        if item.name in _UNIMPORTANT or item.name not in options:
            continue
        value = options[item.name]
        if item.name == "sizes":
            changed += [f"{name} {size:g}" for name, size in value.items()]
        elif value != item.default:
            changed.append(f"{item.name.replace('_', ' ')} {value}")
    return ", ".join(changed) or "reference"


def measure_speed(artifact: Artifact) -> dict[str, float]:
    """Return predictions per second of the training form, eager on the CPU, by batch size (median of repeats)."""
    import torch

    from lvm_runtime.models import load_model

    model = load_model(artifact)
    probes = torch.from_numpy(artifact.read_fingerprint().contexts)
    speeds = {}
    with torch.inference_mode():
        for size in SPEED_BATCHES:
            batch = probes[torch.arange(size) % len(probes)]
            seconds = []
            for _ in range(_REPEATS + 3):
                began = time.perf_counter()
                model(batch)
                seconds.append(time.perf_counter() - began)
            speeds[str(size)] = size / statistics.median(seconds[3:])
    return speeds


NO_FIGURE = "–"
COLUMNS = (
    "model", "recipe", "parameters", "MFLOP", "MB", "trained", "val cosine [95 %]", "to linear average [95 %]",
    "test: to lin. avg", "to ceiling", "to its own", "hit@5", "MRR", "margin", "pred/s b=1", "b=32", "cosine/M par.",
)  # fmt: skip


def cells(row: Row) -> list[str]:
    """Return one run's cells, in the order of `COLUMNS`."""
    verdict = "" if row.gain_low > 0 else " (below)" if row.gain_high < 0 else " (not clear)"
    return [
        row.name,
        row.recipe,
        f"{row.parameters:,}",
        f"{row.mega_flops:.1f}",
        f"{row.megabytes:.1f}",
        f"{row.seconds / 60:.1f} min, epoch {row.best_epoch} of {row.epochs}",
        f"{row.cosine:.4f} [{row.low:.4f}, {row.high:.4f}]",
        f"{row.gain:+.4f} [{row.gain_low:+.4f}, {row.gain_high:+.4f}]{verdict}",
        NO_FIGURE if row.test_gain is None else f"{row.test_gain:+.4f}",
        NO_FIGURE if row.to_ceiling is None else f"{row.to_ceiling:+.4f}",
        NO_FIGURE if row.to_own_ceiling is None else f"{row.to_own_ceiling:+.4f}",
        f"{row.hit_at_5:.3f}",
        f"{row.mrr:.3f}",
        f"{row.margin:+.3f}",
        f"{row.speed['1']:,.0f}",
        f"{row.speed['32']:,.0f}",
        f"{row.cosine_per_million:.3f}",
    ]


def table(runs: list[Run]) -> tuple[list[str], list[list[str]]]:
    """Return the header and a line of cells per run, without the columns that no run has a figure for."""
    lines = [cells(run.row) for run in runs]
    kept = [i for i in range(len(COLUMNS)) if any(line[i] != NO_FIGURE for line in lines)]
    return [COLUMNS[i] for i in kept], [[line[i] for i in kept] for line in lines]


def markdown(runs: list[Run], remarks: list[str]) -> str:
    """Return the table, the baselines of each data set, and the machine, as Markdown."""
    columns, body = table(runs)
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(line) + " |" for line in body]
    lines += ["", *remarks, *baseline_lines(runs)]
    return "\n".join(lines) + "\n"


def baseline_lines(runs: list[Run]) -> list[str]:
    """Return one line per data set with its baselines and ceiling, and one on how to read the intervals."""
    lines: dict[str, str] = {}
    for run in runs:
        baselines = run.result["validation"]["baselines"]
        text = ", ".join(f"{name} {value['value']:.4f}" for name, value in baselines.items())
        ceiling = run.result["ceiling"]
        text += "" if ceiling is None else f", ceiling {ceiling:.4f} (closed form)"
        count = len(run.windows["cosine"])
        lines[f"{run.row.data} {count}"] = f"Baselines on {run.row.data} ({count:,} validation windows): {text}."
    machine = runs[0].result["machine"]
    note = (
        "Intervals are 95 % bootstraps over documents; the gain is paired with the linear average on the same windows. "
        f"Trained on {machine['system']}, {machine['cores']} cores, torch {machine['torch']}."
    )
    started = "" if all(run.result["history"][0]["epoch"] for run in runs) else (
        " Epoch 0 is a model before training whose weights were set and fitted to a linear predictor (start baseline)."
    )  # fmt: skip
    return [*lines.values(), note + started]


def linear_average_of(run: Run) -> float:
    """Return the linear average's cosine on a run's validation windows."""
    return float(run.result["validation"]["baselines"][LINEAR_AVERAGE]["value"])


def main() -> int:
    """Parse the command line, compare and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m train.compare",
        description="Put trained models side by side, with intervals and baselines.",
    )
    parser.add_argument("runs", nargs="*", help="artifacts or .run folders (default: all under artifacts/)")
    parser.add_argument("--out", type=Path, default=DEFAULT_ROOT / "comparison", help="folder of the report")
    options = parser.parse_args()
    folders = [find_run(name) for name in options.runs] or sorted(DEFAULT_ROOT.glob("*.run"))
    if not folders:
        raise InvalidInput(f"no run under {DEFAULT_ROOT}; train with: python -m train.all")
    print(compare(folders, options.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(console.run(main))
