"""A folder with what the guide's examples take as given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from export.coreai.export import export_coreai
from export.coreai.options import USUAL
from export.mlx.export import export_mlx
from export.onnx.export import export_onnx
from export.source import Source
from export.verify import make_samples
from lvm_runtime.backends.coreai import CoreAIBackend
from lvm_runtime.backends.mlx import MlxBackend
from lvm_runtime.models import save_model
from tests.artifacts import randomised

SIZES = {"attention_dim": 8, "hidden_dim": 12, "bottleneck_dim": 8}
"""An AMN for the vectors of the bundled corpus, narrow inside, so that its export takes a second."""


@pytest.fixture(scope="session")
def guide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with artifacts/amn (D = 384), best_model.pt, corpus.npz and contexts.npy."""
    folder = tmp_path_factory.mktemp("guide")
    model = randomised("amn", dim=384, **SIZES)
    source = Source(save_model(model, folder / "artifacts/amn"), model)
    samples = make_samples(source)
    for precision in ("fp32", "int8"):
        export_onnx(source, samples, precision)
    if MlxBackend.missing() is None:
        export_mlx(source, samples)
    if CoreAIBackend.missing() is None:
        export_coreai(source, samples, USUAL[0])
    sizes = {"input_dim": 384, "d_model": 8, "hidden_dim": 12, "bottleneck_dim": 8}
    checkpoint = {"model_type": "amn", "model_config": sizes, "model_state_dict": model.state_dict()}
    torch.save(checkpoint, folder / "best_model.pt")
    vectors = np.random.default_rng(0).standard_normal((120, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    files = [f"text/{i}.txt" for i in range(6)]
    np.savez(folder / "corpus.npz", vectors=vectors, doc_ids=np.repeat(np.arange(6), 20), files=files)
    np.save(folder / "contexts.npy", np.stack([vectors[i : i + 5] for i in range(64)]))
    return folder
