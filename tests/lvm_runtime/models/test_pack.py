"""From an artifact back to its model."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from lvm_runtime.errors import ArtifactError
from lvm_runtime.models import load_model
from tests.artifacts import make_artifact


def test_weight_that_went_missing_since_the_check_is_an_error(tmp_path: Path) -> None:
    """Left as it was made, it would be a random number in a model that looks whole."""
    artifact = make_artifact(tmp_path / "amn", onnx=False)
    file = tmp_path / "amn/model.safetensors"
    weights = load_file(file)
    name = sorted(weights)[0]
    save_file({key: value for key, value in weights.items() if key != name}, file)
    with pytest.raises(ArtifactError, match=f"not the weights of this amn: .*{name}"):
        load_model(artifact)
