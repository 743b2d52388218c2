"""The dtype and the device that a program made torch's defaults count neither for a model nor for its answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lvm_runtime.artifact.config import ARCHITECTURES
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.models import build_model, load_model, save_model
from lvm_runtime.predictor import Predictor
from tests.artifacts import some_contexts

Get = Callable[[str], Path]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_is_the_same(
    small_artifacts: Get, tmp_path: Path, architecture: str, change_defaults: Callable[[], None]
) -> None:
    artifact = Artifact.load(small_artifacts(architecture))
    loaded, fresh = load_model(artifact), build_model(artifact.config, seed=0)
    change_defaults()
    again, built = load_model(artifact), build_model(artifact.config, seed=0)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    for mine, usual in ((again, loaded), (built, fresh)):
        found = {name: (t.dtype, t.device) for name, t in (*mine.named_parameters(), *mine.named_buffers())}
        assert found == {n: (t.dtype, t.device) for n, t in (*usual.named_parameters(), *usual.named_buffers())}
    for name, tensor in fresh.named_buffers():
        assert torch.equal(dict(built.named_buffers())[name], tensor), name
    saved = save_model(again, tmp_path / "again")
    assert saved.manifest.weights.sha256 == artifact.manifest.weights.sha256


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("architecture", "backend"),
    [
        *((name, backend) for name in ARCHITECTURES for backend in ("eager", "torchscript")),
        *(pytest.param(name, "compiled", marks=pytest.mark.soak) for name in ARCHITECTURES),
    ],
)
def test_a_backend_answers_the_same(
    small_artifacts: Get, architecture: str, backend: str, when: str, change_defaults: Callable[[], None]
) -> None:
    path, contexts = small_artifacts(architecture), some_contexts(9)
    with Predictor(path, backend=backend, device="cpu", threads=1) as usual:
        expected = usual.predict(contexts)
    if when == "before":
        change_defaults()
    with Predictor(path, backend=backend, device="cpu", threads=1) as predictor:
        if when == "after":
            change_defaults()
        for given in (contexts, contexts.tolist(), torch.from_numpy(contexts)):
            np.testing.assert_allclose(predictor.predict(given), expected, rtol=0, atol=1e-6)
