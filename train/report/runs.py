"""Finished runs, read back from their folders: one row of figures each."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.artifact.config import ARCHITECTURES
from lvm_runtime.artifact.folder import DEFAULT_ROOT, MANIFEST, Artifact
from lvm_runtime.errors import ArtifactError
from lvm_runtime.selection.timing import interleave
from lvm_runtime.system import machine

from ..evaluation.baselines import LINEAR_AVERAGE, PERSISTENCE
from ..evaluation.metrics import Estimate
from ..options import RUN, TrainOptions
from .results import RESULT, WINDOWS

SPEED_BATCHES = (1, 32)
_UNIMPORTANT = {"model", "data", "out", "resume", "checkpoint_every", "device", "seed", "windows", "dim", "test",
                "trust_pickle", "resident_bytes", "epochs", "queries"}  # fmt: skip


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
    documents: int | None
    test_gain: Estimate | None
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
    artifact: Path
    result: dict[str, Any]
    windows: dict[str, NDArray[Any]]
    machine: str


def read_run(folder: Path) -> Run:
    """Read the figures that a run left in `folder` and measure its artifact's speed here."""
    try:
        result = json.loads((folder / RESULT).read_bytes())
        with np.load(folder / WINDOWS) as arrays:
            windows = {name: arrays[name] for name in arrays.files}
        trained_on = f"{machine.line(result['machine'])}, torch {result['machine']['versions']['torch']}"
        artifact = _artifact_of(folder, result)
        return Run(_row(folder, artifact, result), artifact.path, result, windows, trained_on)
    except (OSError, ValueError, KeyError) as error:
        why = getattr(error, "strerror", None) or error
        raise ArtifactError(
            f"{folder}: no figures of a finished run ({why}); train it with: lvm-runtime train"
        ) from error


def find_run(name: str) -> Path:
    """Return the folder of figures that `name` means: an architecture, an artifact or the folder itself."""
    path = DEFAULT_ROOT / name if name in ARCHITECTURES and not Path(name).exists() else Path(name)
    return path if path.suffix == RUN else path.parent / f"{path.name}{RUN}"


def _row(folder: Path, artifact: Artifact, result: dict[str, Any]) -> Row:
    found, ceiling, own = result["validation"], result["ceiling"], result.get("own_ceiling")
    cosine, gain = found["cosine"], found["gain"]
    return Row(
        name=folder.name.removesuffix(RUN),
        recipe=recipe_of(result["options"]),
        data=Path(result["options"]["data"]).name,
        parameters=result["parameters"],
        mega_flops=2 * artifact.config.multiply_adds() / 1e6,
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
        documents=gain.get("documents"),
        test_gain=Estimate.from_dict(result["test"]["gain"]) if result["test"] else None,
        to_ceiling=None if ceiling is None else cosine["value"] - ceiling,
        to_own_ceiling=None if own is None else cosine["value"] - own,
        hit_at_5=found["hits"]["hit@5"],
        mrr=found["mrr"],
        margin=found["margin"]["value"],
        speed=measure_speed(artifact),
        cosine_per_million=cosine["value"] / (result["parameters"] / 1e6),
    )


def _artifact_of(folder: Path, result: dict[str, Any]) -> Artifact:
    """Return the artifact beside the figures, which moves with them, or where it was written if none is there.

    Raises ArtifactError for another model than that of the figures: a run between had not come to write its own.
    """
    beside = folder.with_name(folder.name.removesuffix(RUN))
    artifact = Artifact.load(beside if (beside / MANIFEST).is_file() else result["artifact"])
    if artifact.manifest.model != result.get("model_hash", artifact.manifest.model):
        raise ArtifactError(
            f"{folder}: figures of another model than the one in {artifact.path}, which came later; "
            "train it again, or evaluate the one that they belong to"
        )
    return artifact


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
    """Return predictions per second of the training form, eager on the CPU, by batch size (median call)."""
    import torch

    from lvm_runtime.models import load_model

    model = load_model(artifact)
    probes = torch.tensor(artifact.read_fingerprint().contexts)
    sides = {}
    with torch.inference_mode():
        for size in SPEED_BATCHES:
            sides[str(size)] = partial(model, probes[torch.arange(size) % len(probes)])
        timings = interleave(sides, rounds=3, seconds=0.05)
    return {size: int(size) / timing.median for size, timing in timings.items()}


def windows_of(run: Run, side: str = "validation") -> tuple[str, ...]:
    """Return what tells the windows that a run was judged on from others: its data, and what two baselines reach there.

    Names and counts are not enough: another split has as many windows, and so has a file that was written again. The
    two baselines are fitted to nothing, and alike on all devices to six digits.
    """
    found = run.result[side]
    figures = [found["baseline_metrics"][name] for name in (LINEAR_AVERAGE, PERSISTENCE)]
    reached = [f"{metrics['cosine']['value']:.5f} {metrics['mrr']:.4f}" for metrics in figures]
    return run.row.data, side, str(found["windows"]), *reached


def linear_average_of(run: Run) -> float:
    """Return the linear average's cosine on a run's validation windows."""
    return float(run.result["validation"]["baselines"][LINEAR_AVERAGE]["value"])
