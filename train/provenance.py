"""What an artifact tells of the run that made it: its data, its figures and its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lvm_runtime.corpus.corpus import Corpus
from lvm_runtime.text.encoder import same_probe

from .checkpoint import Progress
from .evaluation.evaluate import Evaluation
from .loop import Trainer
from .prepared_data import PreparedData


def provenance(
    trainer: Trainer, progress: Progress, prepared: PreparedData, validation: Evaluation, test: Evaluation | None
) -> dict[str, Any]:
    """Return the provenance of the artifact that a run writes, as JSON values."""
    return {
        "data": _data(prepared),
        "metrics": _metrics(prepared, validation, test),
        "training": _training(trainer, progress),
    }


def _data(prepared: PreparedData) -> dict[str, Any]:
    corpus, split = prepared.corpus, prepared.split
    return {
        "diagnosis": prepared.diagnosis.to_dict(),
        "name": Path(corpus.name).name,
        "vectors": len(corpus.values),
        "digest": prepared.digest,
        "made": _encoder_of(corpus),
        "windows": {"train": len(split.train), "validation": len(split.validation), "test": len(split.test)},
        "copies": prepared.copies,
    }


def _encoder_of(corpus: Corpus) -> dict[str, Any] | None:
    """Return name and probe of the encoder that made the corpus, None where it does not say."""
    made = corpus.columns.made or {}
    if not same_probe(made.get("probe"), made.get("probe")) or len(made["probe"]) != corpus.dim:
        return None
    return {"encoder": Path(str(made.get("encoder"))).name, "probe": made["probe"]}


def _metrics(prepared: PreparedData, validation: Evaluation, test: Evaluation | None) -> dict[str, Any]:
    metrics: dict[str, Any] = {
        "val_cosine": validation.metrics.cosine.value,
        "linear_average": validation.linear_average.value,
        "gain": validation.gain.to_dict(),
        "validation": validation.to_dict(),
        "baseline_settings": prepared.baselines.notes,
        "ceiling": prepared.ceiling,
    }
    if test is not None:
        metrics |= {"test": test.to_dict(), "test_gain": test.gain.to_dict()}
    return metrics


def _training(trainer: Trainer, progress: Progress) -> dict[str, Any]:
    options = trainer.options
    return {
        "options": options.to_dict() | {"data": Path(options.data).name, "out": options.artifact_path.name},
        "best_epoch": progress.best_epoch,
        "epochs": trainer.epoch,
        "seconds": round(progress.seconds, 2),
        "device": str(trainer.device),
        "processes": trainer.processes.count,
    }
