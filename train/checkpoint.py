"""Checkpoints from which a run continues to the same weights, bit for bit on the CPU.

A checkpoint holds all that the rest of the run depends on: weights, optimizer, schedule, the place in the
epoch, random states, the best weights so far and the history. It is written under a temporary name and
renamed, so that a run killed at any moment leaves the previous one; it is read with `weights_only=True`.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lvm_runtime.errors import ArtifactError, InvalidInput
from lvm_runtime.system import atomic

from .loop import Trainer
from .options import TrainOptions

FILE = "checkpoint.pt"
BEFORE = "checkpoint.before.pt"
"""What the checkpoint of a run that did not end becomes where another one starts afresh in its place."""

SCHEMA = 4
"""Until schema 2 the digest was that of 256 rows, and data that had changed elsewhere went on unnoticed. Until schema 3
there was one random state for all processes, which then dropped the same units."""

FREE = frozenset({"out", "epochs", "resume", "checkpoint_every", "device", "compile", "resident_bytes", "trust_pickle"})
"""Options that may differ between a run and its continuation. More epochs is how a finished run is extended."""


@dataclass(slots=True)
class Progress:
    """What a run has found out so far: one record per epoch, the best weights, seconds spent training."""

    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_score: float = float("-inf")
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0


def save_checkpoint(path: Path, trainer: Trainer, progress: Progress, corpus: str) -> None:
    """Replace the checkpoint at `path` in one step; `corpus` is the digest of the data.

    Every process calls this: the checkpoint holds the random states of all, and the first one writes it.
    """
    own = _random_state(trainer.device)
    random = {name: trainer.processes.gather(values) for name, values in own.items()}
    losses = trainer.processes.mean(trainer.losses)  # of which every process then goes on with its part
    if not trainer.processes.main:
        return
    state = {
        "schema": SCHEMA,
        "options": trainer.options.to_dict(),
        "corpus": corpus,
        "model": trainer.model.state_dict(),
        "average": None if trainer.average is None else trainer.average.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "plateau": trainer.plateau.state_dict(),
        "epoch": trainer.epoch,
        "step": trainer.step,
        "losses": losses,
        "random": random,
        "history": progress.history,
        "best_epoch": progress.best_epoch,
        "best_score": progress.best_score,
        "best_weights": progress.best_weights,
        "seconds": progress.seconds,
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    atomic.write_bytes(path, buffer.getvalue())


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the checkpoint at `path` holds, of a run with the same options; its data are compared once they are read."""

    path: Path
    state: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path, options: TrainOptions) -> Checkpoint:
        """Read a checkpoint; ArtifactError for a file that is none, InvalidInput where `options` are not its run's."""
        state = _read(path)
        _compare_options(path, state["options"], options.to_dict())
        if state["epoch"] > options.epochs:
            raise InvalidInput(
                f"epochs is {options.epochs}, but the run of {path} has had {state['epoch']}; give as many or more, or "
                "drop --resume"
            )
        return cls(path, state)

    def compare_data(self, corpus: str) -> None:
        """Raise InvalidInput unless `corpus` is the digest of the run's data."""
        if self.state["corpus"] != corpus:
            raise InvalidInput(
                f"{self.path}: was made on other data (digest {self.state['corpus']}, now {corpus}); drop --resume"
            )

    def restore(self, trainer: Trainer) -> Progress:
        """Put `trainer` where the checkpoint was, and return the progress until then."""
        state = self.state
        trainer.model.load_state_dict(state["model"])
        if trainer.average is not None:
            trainer.average.load_state_dict(state["average"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        trainer.plateau.load_state_dict(state["plateau"])
        trainer.epoch, trainer.step = state["epoch"], state["step"]
        trainer.losses.copy_(state["losses"])
        rank = trainer.processes.rank
        states = {name: values[rank] for name, values in state["random"].items() if rank < len(values)}
        _set_random_state(states, trainer.device)
        best = state["best_epoch"], state["best_score"], state["best_weights"]
        return Progress(state["history"], *best, state["seconds"])


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ArtifactError(f"{path}: no checkpoint to resume from; drop --resume to start a run")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch writes checksums and reads none
        state = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile, OSError) as error:
        raise ArtifactError(f"{path}: not a readable checkpoint; drop --resume to start afresh") from error
    if damaged:
        raise ArtifactError(f"{path}: damaged in {damaged}; drop --resume to start afresh")
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        came = state.get("schema", "none") if isinstance(state, dict) else "none"
        raise ArtifactError(
            f"{path}: checkpoint of schema {came}, expected {SCHEMA}; finish the run with the version that began it, "
            "or drop --resume to start afresh"
        )
    return state


def _compare_options(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name, value in now.items():
        if name not in FREE and before.get(name) != value:
            raise InvalidInput(
                f"{name} was {before.get(name)!r} in the run of {path} and is {value!r} now; "
                "give the same options to continue it, or drop --resume"
            )


def _random_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def _set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    if "cpu" in state:
        torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    if device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])
