"""What an export starts from."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from export.source import open_source
from lvm_runtime.artifact.files import describe
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.errors import ArtifactError, InvalidInput, VerificationFailed
from lvm_runtime.models import save_model
from tests.artifacts import edit_manifest, make_artifact, randomised


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_missing_artifact_names_the_commands() -> None:
    with pytest.raises(ArtifactError, match=r"lvm-runtime train --model amn.*--untrained"):
        open_source("amn")


def test_unknown_name_is_refused() -> None:
    with pytest.raises(InvalidInput, match="lstm, gru, transformer, amn"):
        open_source("artifacts/x", untrained=True)


def test_untrained_artifact_is_made_once_and_found_again() -> None:
    first = open_source("amn", untrained=True, dim=16)
    assert first.artifact.path == Path("artifacts/amn-untrained")
    assert Artifact.load("artifacts/amn-untrained").config.dim == 16
    again = open_source("amn", untrained=True, dim=16)
    assert again.artifact.manifest.created == first.artifact.manifest.created


@pytest.mark.parametrize("trained", [False, True], ids=["another size", "trained"])
def test_untrained_weights_replace_no_other_model(trained: bool) -> None:
    """Its compiled forms would be gone with it."""
    if trained:
        save_model(randomised("amn", dim=24), "artifacts/amn-untrained", provenance={"training": {"epochs": 1}})
    else:
        open_source("amn", untrained=True, dim=16)
    before = Artifact.load("artifacts/amn-untrained").manifest
    with pytest.raises(ArtifactError, match=r"amn-untrained: holds another model \(amn, dim .* of dim 24; remove it"):
        open_source("amn", untrained=True, dim=24)
    assert Artifact.load("artifacts/amn-untrained").manifest == before


def test_a_trained_model_is_not_taken_for_untrained_weights() -> None:
    model = randomised("amn", dim=16)
    save_model(model, "artifacts/amn-untrained", provenance={"training": {"epochs": 1}})
    with pytest.raises(ArtifactError, match="dim 16, which is not of random weights"):
        open_source("amn", untrained=True, dim=16)


def test_every_parameter_of_untrained_weights_counts() -> None:
    source = open_source("amn", untrained=True, dim=16)
    for name, parameter in source.model.named_parameters():
        assert (parameter != 0).all(), name
        assert parameter.unique().numel() > 1, name


def test_weights_of_another_model_than_the_known_answers_are_not_exported(tmp_path: Path) -> None:
    artifact, other = make_artifact(tmp_path / "amn"), save_model(randomised("amn", seed=1), tmp_path / "other")
    shutil.copy(other.path / "model.safetensors", artifact.path)
    weights = asdict(describe(artifact.path, "model.safetensors"))
    edit_manifest(artifact.path, lambda body: body.update(weights=weights))
    with pytest.raises(VerificationFailed, match=r"what its weights answer and the known answers is .*e-01, expected"):
        open_source(str(artifact.path))
