"""The figures of a run, kept beside its artifact for comparisons: `result.json` and `windows.npz`.

artifacts/amn.run/result.json    options, history, metrics, timings
artifacts/amn.run/windows.npz    cosine per validation window, of the model and the linear average;
                                 for the AMN its attention by position and a few examples
"""

from __future__ import annotations

import io
import json
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from lvm_runtime import atomic
from lvm_runtime.models.amn import AMN
from train.baselines import LINEAR_AVERAGE
from train.windows import WindowSet

if TYPE_CHECKING:
    from train.run import Evaluation, TrainResult

RESULT = "result.json"
WINDOWS = "windows.npz"
ATTENTION_WINDOWS = 2000
ATTENTION_EXAMPLES = 6


def write_results(folder: Path, result: TrainResult, model: nn.Module, validation: WindowSet) -> None:
    """Write both files into `folder`."""
    scores = result.validation
    arrays: dict[str, Any] = {
        "cosine": scores.scores.cosine.astype(np.float32),
        "linear_average": scores.baseline_scores[LINEAR_AVERAGE].cosine.astype(np.float32),
        "groups": scores.groups,
    }
    if isinstance(model, AMN):
        arrays |= _attention(model, validation)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    atomic.write_bytes(folder / WINDOWS, buffer.getvalue())
    atomic.write_bytes(folder / RESULT, (json.dumps(_document(result), indent=2) + "\n").encode())


def _document(result: TrainResult) -> dict[str, Any]:
    return {
        "model": result.options.model,
        "artifact": str(result.artifact.path.resolve()),
        "options": result.options.to_dict(),
        "config": result.config.to_dict(),
        "parameters": result.parameters,
        "seconds": result.seconds,
        "best_epoch": result.best_epoch,
        "ceiling": result.ceiling,
        "own_ceiling": result.own_ceiling,
        "history": result.history,
        "validation": _evaluation(result.validation),
        "test": None if result.test is None else _evaluation(result.test),
        "gate": [{"device": g.device, "batch_size": g.batch_size, "drift": g.drift} for g in result.gate],
        "machine": {
            "system": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
        },
    }


def _evaluation(evaluation: Evaluation) -> dict[str, Any]:
    baselines = {name: estimate.to_dict() for name, estimate in evaluation.baselines.items()}
    return evaluation.metrics.to_dict() | {"gain": evaluation.gain.to_dict(), "baselines": baselines}


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
