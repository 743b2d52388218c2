"""The dtype and the device that a program made torch's defaults do not count for a training run, nor for an import."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lvm_runtime.errors import VerificationFailed
from tests.train.test_import_checkpoint import checkpoint
from train.import_checkpoint import import_checkpoint
from train.options import TrainOptions
from train.run import train

RUNS = {
    "plain": {"model": "amn", "input_noise": 0.1, "vector_dropout": 0.1, "ema": 0.9, "test": 0.1},
    "ranked": {"model": "gru", "loss": "ranking", "start": "ranked", "judge": "both", "sizes": {"hidden_dim": 16}},
}


def _defaults() -> tuple[torch.dtype, torch.device]:
    return torch.get_default_dtype(), torch.get_default_device()


@pytest.mark.parametrize("values", RUNS.values(), ids=RUNS)
def test_a_run_gives_the_same_weights_and_leaves_the_defaults(
    tmp_path: Path, values: dict, change_defaults: Callable[[], None]
) -> None:
    small: dict = {"data": "synthetic", "windows": 300, "dim": 16, "epochs": 1, "device": "cpu"} | values
    usual = train(TrainOptions(out=tmp_path / "usual", **small), lambda line: None)
    change_defaults()
    before = _defaults()
    found = train(TrainOptions(out=tmp_path / "found", **small), lambda line: None)
    assert _defaults() == before
    assert found.artifact.manifest.weights.sha256 == usual.artifact.manifest.weights.sha256
    assert [record["val_cosine"] for record in found.history] == [record["val_cosine"] for record in usual.history]


def test_a_run_inside_an_autocast_is_in_the_precision_that_it_says(tmp_path: Path) -> None:
    small: dict = {"data": "synthetic", "windows": 300, "dim": 16, "epochs": 1, "device": "cpu", "model": "amn"}
    usual = train(TrainOptions(out=tmp_path / "usual", **small), lambda line: None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = train(TrainOptions(out=tmp_path / "found", **small), lambda line: None)
        assert torch.is_autocast_enabled("cpu")
    assert found.artifact.manifest.weights.sha256 == usual.artifact.manifest.weights.sha256
    assert found.validation.to_dict() == usual.validation.to_dict()


def test_an_import_computes_the_same_cosine(tmp_path: Path, change_defaults: Callable[[], None]) -> None:
    file = checkpoint(tmp_path / "best.pt", "lstm", val_cosine=2.0)
    told = []
    for change in (lambda: None, change_defaults):
        change()
        with pytest.raises(VerificationFailed, match=r"2\.0000 in the checkpoint and -?0\.\d+ on synthetic") as failure:
            import_checkpoint(file, tmp_path / "out", "synthetic", windows=300)
        told.append(str(failure.value))
    assert told[0] == told[1]
