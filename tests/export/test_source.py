"""What an export starts from."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.source import open_source
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.errors import ArtifactError, InvalidInput


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
    assert open_source("amn", untrained=True, dim=24).artifact.config.dim == 24


def test_every_parameter_of_untrained_weights_counts() -> None:
    source = open_source("amn", untrained=True, dim=16)
    for name, parameter in source.model.named_parameters():
        assert (parameter != 0).all(), name
        assert parameter.unique().numel() > 1, name
