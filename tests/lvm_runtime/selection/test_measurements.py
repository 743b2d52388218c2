"""What is measured where the cache folder cannot be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from lvm_runtime import Predictor
from lvm_runtime.models import load_model
from lvm_runtime.request import Request
from lvm_runtime.selection import measurements
from lvm_runtime.selection.tuning import tune
from tests.artifacts import add_onnx, make_artifact, some_contexts


@pytest.mark.parametrize(
    "where", ["read-only", *(pytest.param(other, marks=pytest.mark.soak) for other in ("a file", "no home"))]
)
def test_without_a_cache_folder_forms_are_measured_and_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    cache = tmp_path / "cache"
    if where == "no home":
        monkeypatch.delenv("LVM_CACHE")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

        def no_home() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", no_home)
    elif where == "a file":
        cache.write_text("not a folder")
        monkeypatch.setenv("LVM_CACHE", str(cache))
    else:
        monkeypatch.setenv("LVM_CACHE", "/proc/cannot-write")  # root may write anywhere else
    artifact = make_artifact(tmp_path / "amn")
    artifact = add_onnx(artifact, load_model(artifact), "onnx/int8.onnx", precision="int8", drift=5e-4)
    with Predictor(artifact.path, max_drift=1e-3) as predictor:
        assert predictor.predict(some_contexts(2)).shape == (2, 16)
    told: list[str] = []
    tune(artifact.path, Request("onnx", max_drift=1e-3, device="cpu"), report=told.append)
    assert any("cache folder cannot be written" in line for line in told)
    assert measurements.load(artifact, 1) == []
