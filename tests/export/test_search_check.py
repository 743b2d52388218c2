"""The gate in what counts: a form has to find what the training form finds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.__main__ import command
from export.search_check import SearchCheck
from export.source import Source
from export.verify import make_samples, verify
from lvm_runtime.artifact.config import make_config
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends.base import Array
from lvm_runtime.commands.info import describe_artifact
from lvm_runtime.corpus.corpus import BUNDLED
from lvm_runtime.errors import InvalidInput, VerificationFailed
from lvm_runtime.models import build_model, save_model
from tests.artifacts import randomised

DIM = 16


class Moved:
    """The training form, with something added to every prediction, which has norm 1 again then."""

    def __init__(self, model: Any, by: float) -> None:
        self.model, self.by = model, by

    def run(self, contexts: Array) -> Array:
        return self.run_with_attention(contexts)[0]

    def run_with_attention(self, contexts: Array) -> tuple[Array, Array]:
        with torch.inference_mode():
            predictions, attention = self.model.forward_with_attention(torch.from_numpy(contexts))
        moved = predictions.numpy() + np.float32(self.by) * np.eye(DIM, dtype=np.float32)[0]
        return moved / np.linalg.norm(moved, axis=1, keepdims=True), attention.numpy()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    model: Any = randomised("amn")
    with torch.no_grad():
        for parameter in model.residual_net[-1].parameters():
            parameter.mul_(0.1)  # predictions near what they are searched among
    return Source(save_model(model, tmp_path_factory.mktemp("a") / "amn"), model)


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    """A corpus whose vectors lie within two degrees of each other, so that little reorders them."""
    rng = np.random.default_rng(0)
    vectors = 1 + 0.02 * rng.standard_normal((600, DIM))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.savez(tmp_path / "dense.npz", vectors=vectors.astype(np.float32), doc_ids=np.repeat(np.arange(30), 20))
    return tmp_path / "dense.npz"


def test_neighbours_out_of_order_are_refused_where_the_drift_passes(source: Source, dense: Path) -> None:
    form = Moved(source.model, 0.015)
    plain = verify(form, make_samples(source), name="moved", precision="int8")
    assert plain.worst_drift < 2e-4
    with pytest.raises(VerificationFailed, match=r"moved: finds 0\.\d+ of the same 10, .* expected an overlap ≥ 0.98"):
        verify(form, make_samples(source, dense), name="moved", precision="int8")
    kept = verify(form, make_samples(source, dense, min_overlap=0.1), name="moved", precision="int8").search
    assert kept is not None
    assert 0.1 < kept.overlap < 0.98
    right = verify(Moved(source.model, 0.0), make_samples(source, dense), name="right", precision="fp32").search
    assert right is not None
    assert (right.overlap, right.mrr_difference, right.windows) == (1.0, 0.0, 3 * 15)


def test_windows_without_what_followed_are_refused(source: Source, tmp_path: Path) -> None:
    np.save(tmp_path / "contexts.npy", np.ones((9, 5, DIM), np.float32))
    with pytest.raises(InvalidInput, match="expected targets"):
        make_samples(source, tmp_path / "contexts.npy")


@pytest.mark.skipif(sys.platform != "linux", reason="resident pages are read from /proc")
def test_mapped_corpus_takes_no_memory(source: Source, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((1_000_000, DIM)).astype(np.float16)
    np.save(tmp_path / "large.npy", vectors)

    def mapped() -> int:
        return int(Path("/proc/self/status").read_text().split("RssFile:")[1].split()[0]) * 1024

    before = mapped()
    check = SearchCheck.of(source.model, tmp_path / "large.npy", queries=4)
    assert check.search.end == len(vectors)
    assert mapped() - before < vectors.nbytes / 4


def test_forms_of_a_real_corpus_pass_and_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = build_model(make_config("amn", dim=384, recency=True))
    torch.nn.init.normal_(model.get_parameter("residual_net.6.weight"), std=0.005)  # as far from its start as training
    folder = save_model(model.eval(), tmp_path / "model").path
    assert command(["--model", str(folder), "--data", "bundled", "--format", "onnx"]) == 0
    artifact = Artifact.load(folder)
    measured = {c.file.path: c.details["search"] for c in artifact.manifest.compiled}
    assert set(measured) == {"onnx/fp32.onnx", "onnx/int8.onnx", "onnx/sequence-fp32.onnx"}
    for path, found in measured.items():
        assert found["overlap"] >= (0.999 if "fp32" in path else 0.98)
        assert abs(found["mrr_difference"]) < 0.01
        assert f"{found['overlap']:.4f} of 10" in describe_artifact(artifact)
    assert {found["corpus"] for found in measured.values()} == {BUNDLED.name}
    assert "of the same 10 found" in capsys.readouterr().out
