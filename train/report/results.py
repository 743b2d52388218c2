"""The figures of a run, kept beside its artifact for comparisons: `result.json` and `windows.npz`.

artifacts/amn.run/result.json    options, history, metrics, timings
artifacts/amn.run/windows.npz    cosine per validation window, of the model and the linear average; ranks of 1,000;
                                 for the AMN its attention by position and a few examples
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lvm_runtime.artifact.config import ModelConfig
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.models.amn import AMN
from lvm_runtime.system import atomic, machine

from ..data.windows import WindowSet
from ..evaluation.baselines import LINEAR_AVERAGE
from ..evaluation.evaluate import Evaluation
from ..evaluation.gate import GateReading
from ..options import TrainOptions
from ..prepared_data import PreparedData

RESULT = "result.json"
WINDOWS = "windows.npz"
ATTENTION_WINDOWS = 2000
ATTENTION_EXAMPLES = 6


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run produced; `ceiling` is the best possible cosine where it is known, `own_ceiling` this model's."""

    options: TrainOptions
    config: ModelConfig
    artifact: Artifact
    history: list[dict[str, float]]
    best_epoch: int
    validation: Evaluation
    test: Evaluation | None
    ceiling: float | None
    own_ceiling: float | None
    parameters: int
    seconds: float
    gate: list[GateReading]
    prepared: PreparedData


def write_results(folder: Path, result: TrainResult, model: nn.Module, validation: WindowSet) -> None:
    """Write both files into `folder`."""
    scores = result.validation
    arrays: dict[str, Any] = {
        "cosine": scores.scores.rows.cosine.astype(np.float32),
        "linear_average": scores.baseline_scores[LINEAR_AVERAGE].rows.cosine.astype(np.float32),
        "rank": scores.scores.ranks.rank,
        "groups": scores.groups,
    }
    arrays |= {f"rank of {name}": found.ranks.rank for name, found in scores.baseline_scores.items()}
    if isinstance(model, AMN):
        arrays |= _attention(model, validation)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    document = json.dumps(_document(result), indent=2) + "\n"
    atomic.write_files(folder, {WINDOWS: buffer.getvalue(), RESULT: document.encode()})


def _document(result: TrainResult) -> dict[str, Any]:
    return {
        "model": result.options.model,
        "artifact": str(result.artifact.path.resolve()),
        "model_hash": result.artifact.manifest.model,
        "options": result.options.to_dict(),
        "config": result.config.to_dict(),
        "parameters": result.parameters,
        "seconds": result.seconds,
        "best_epoch": result.best_epoch,
        "ceiling": result.ceiling,
        "own_ceiling": result.own_ceiling,
        "history": result.history,
        "validation": result.validation.to_dict(),
        "test": None if result.test is None else result.test.to_dict(),
        "gate": [{"device": g.device, "batch_size": g.batch_size, "drift": g.drift} for g in result.gate],
        "machine": machine.describe() | {"threads": torch.get_num_threads()},
    }


@torch.no_grad()
def _attention(model: AMN, validation: WindowSet) -> dict[str, Any]:
    sample = validation.sample(ATTENTION_WINDOWS)
    parts = [model.forward_with_attention(sample.batch(s)[0])[1].cpu() for s in sample.batches(256)]
    attention = torch.cat(parts).numpy()
    examples = np.linspace(0, len(attention) - 1, min(ATTENTION_EXAMPLES, len(attention))).astype(int)
    return {
        "attention_mean": attention.mean(axis=0),
        "attention_quartiles": np.percentile(attention, [25, 75], axis=0),
        "attention_examples": attention[examples],
        "attention_rows": sample.starts.cpu().numpy()[examples],
    }
