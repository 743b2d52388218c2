"""From an artifact back to its model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from torch.nn.utils.parametrizations import weight_norm

from lvm_runtime.artifact.files import describe
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.errors import ArtifactError
from lvm_runtime.models import load_model, save_model
from tests.artifacts import flip, make_artifact, randomised


def test_weights_that_were_changed_since_are_not_loaded(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "amn", onnx=False)
    flip(tmp_path / "amn/model.safetensors", 0.9)
    with pytest.raises(ArtifactError, match=r"model.safetensors: SHA-256"):
        load_model(artifact)


def test_weights_that_are_tied_are_saved_as_two(tmp_path: Path) -> None:
    model: Any = randomised("gru")
    model.blocks[1].gru.weight_hh_l0 = model.blocks[0].gru.weight_hh_l0
    loaded: Any = load_model(save_model(model, tmp_path / "gru"))
    for block in loaded.blocks:
        assert block.gru.weight_hh_l0.equal(model.blocks[0].gru.weight_hh_l0)


def test_a_model_with_weights_under_other_names_leaves_the_artifact_that_is_there(tmp_path: Path) -> None:
    kept = make_artifact(tmp_path / "amn")
    model: Any = randomised("amn", seed=1)
    weight_norm(model.residual_net[0])
    with pytest.raises(ArtifactError, match=r"not the weights of this amn: residual_net\.0\.weight is missing"):
        save_model(model, tmp_path / "amn")
    assert Artifact.load(tmp_path / "amn").manifest == kept.manifest
    assert not list(tmp_path.rglob(".tmp-*"))


def test_weight_that_is_missing_is_an_error(tmp_path: Path) -> None:
    """Left as it was made, it would be a random number in a model that looks whole."""
    artifact = make_artifact(tmp_path / "amn", onnx=False)
    file = tmp_path / "amn/model.safetensors"
    weights = load_file(file)
    name = sorted(weights)[0]
    save_file({key: value for key, value in weights.items() if key != name}, file)
    artifact = replace(artifact, manifest=replace(artifact.manifest, weights=describe(tmp_path / "amn", file.name)))
    with pytest.raises(ArtifactError, match=f"not the weights of this amn: .*{name}"):
        load_model(artifact)
