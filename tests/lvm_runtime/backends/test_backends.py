"""Every backend against the known answers: one table of tolerances, one row per backend and precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lvm_runtime.artifact.config import ARCHITECTURES
from lvm_runtime.artifact.drift import max_drift
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends import BACKENDS, backend_class
from lvm_runtime.backends.devices import inference
from lvm_runtime.backends.onnx import OnnxBackend
from lvm_runtime.errors import ArtifactError, BackendUnavailable, InvalidInput
from lvm_runtime.predictor import Predictor
from tests.artifacts import some_contexts
from tests.conftest import AVAILABLE

Get = Callable[[str], Path]

TOLERANCES = {"fp32": 1e-11, "bf16": 1e-3}
"""Largest drift by precision; far below the limit for fp32, where the small models leave nothing else to lose."""

ROWS = [
    ("onnx", "onnx/fp32.onnx", "fp32"),
    ("openvino", "onnx/fp32.onnx", "fp32"),
    ("openvino", "onnx/fp32.onnx", "bf16"),
    ("torchscript", "torchscript/fp32.pt", "fp32"),
    ("eager", "", "fp32"),
]


def _build(path: Path, backend: str, file: str, **options: Any) -> Any:
    return backend_class(backend)(path / file if file else path, threads=1, **options)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("backend", "file", "precision"),
    [pytest.param(*row, id=f"{row[0]}-{row[2]}", marks=[pytest.mark.bf16] * (row[2] == "bf16")) for row in ROWS],
)
def test_parity(small_artifacts: Get, architecture: str, backend: str, file: str, precision: str) -> None:
    path = small_artifacts(architecture)
    built = _build(path, backend, file, precision=precision)
    probes = Artifact.load(path).read_fingerprint()
    assert (built.device, built.threads) == ("cpu", 1)
    for batch in (1, 3, len(probes.contexts)):
        found = built.run(probes.contexts[:batch])
        assert found.dtype == np.float32
        worst = max_drift(found, probes.predictions[:batch])
        assert worst <= TOLERANCES[precision], f"batch {batch}: drift {worst:.2e}"
    if probes.attention is not None:
        again, attention = built.run_with_attention(probes.contexts)
        np.testing.assert_allclose(again, found, rtol=0, atol=1e-6)
        np.testing.assert_allclose(attention, probes.attention, rtol=0, atol=1e-6 if precision == "fp32" else 2e-2)
    built.close()


def test_bf16_is_refused_where_the_cpu_has_none(small_artifacts: Get) -> None:
    if AVAILABLE["bf16"]():
        pytest.skip("this CPU has bf16")
    with pytest.raises(BackendUnavailable, match="bfloat16"):
        _build(small_artifacts("amn"), "openvino", "onnx/fp32.onnx", precision="bf16")


def test_every_backend_that_runs_here_is_in_the_table() -> None:
    here = {name for name in BACKENDS if backend_class(name).missing() is None}
    tested_apart = {"compiled", "coreai", "coreml", "mlx", "native"}
    assert here - {row[0] for row in ROWS} <= tested_apart


@pytest.mark.parametrize("name", ["onnx", "torchscript", "openvino"])
def test_a_file_of_something_else_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"not a model")
    with pytest.raises(ArtifactError, match=str(file)):
        backend_class(name)(file)


@pytest.mark.parametrize("name", ["onnx", "torchscript", "openvino", "eager"])
@pytest.mark.parametrize("device", ["cuda", "npu"])
def test_a_device_that_is_not_here_is_an_error(small_artifacts: Get, name: str, device: str) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    file = {b: f for b, f, _ in ROWS}[name]
    with pytest.raises(BackendUnavailable, match=device):
        _build(small_artifacts("amn"), name, file, device=device)


@pytest.mark.parametrize(
    ("name", "module"),
    [("onnx", "onnxruntime"), ("openvino", "openvino"), ("eager", "torch"), ("torchscript", "torch")],
)
def test_a_missing_framework_names_the_pip_command(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lvm_runtime.system.extras.find_spec", lambda wanted: None if wanted == module else 1)
    with pytest.raises(BackendUnavailable, match=f"backend {name} is not available: it needs {module}.*pip install"):
        backend_class(name)(Path())


def test_an_unknown_backend_is_an_error() -> None:
    with pytest.raises(InvalidInput, match="unknown backend 'tvm'; expected auto or one of onnx"):
        backend_class("tvm")


def test_torch_keeps_the_callers_number_of_threads() -> None:
    before = torch.get_num_threads()
    with inference("cpu", before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_other_sessions_of_the_process_keep_working(small_artifacts: Get) -> None:
    import onnxruntime

    path = small_artifacts("amn")
    _build(path, "onnx", "onnx/fp32.onnx")
    session = onnxruntime.InferenceSession(path / "onnx/fp32.onnx", providers=["CPUExecutionProvider"])
    assert session.run(["prediction"], {"context": np.ones((1, 5, 16), np.float32)})[0].shape == (1, 16)


@pytest.mark.cuda
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("backend", ["eager", "torchscript", "onnx"])
def test_parity_on_cuda(small_artifacts: Get, architecture: str, backend: str) -> None:
    """To the known answers and, alone or among others, to itself."""
    if backend == "onnx" and "cuda" not in OnnxBackend.devices():
        pytest.skip("this onnxruntime has no CUDA: pip install onnxruntime-gpu")
    contexts = some_contexts(300)
    with Predictor(small_artifacts(architecture), backend=backend, device="cuda") as predictor:
        probes = predictor.artifact.read_fingerprint()
        assert predictor.explain().running.device == "cuda"
        np.testing.assert_allclose(predictor.predict(probes.contexts), probes.predictions, rtol=0, atol=2e-6)
        together = predictor.predict(contexts)
        alone = np.concatenate([predictor.predict(context[None]) for context in contexts])
    np.testing.assert_allclose(alone, together, rtol=0, atol=2e-6)


@pytest.mark.mps
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("backend", "file"), [("eager", ""), ("torchscript", "torchscript/fp32.pt")])
def test_parity_on_mps(small_artifacts: Get, architecture: str, backend: str, file: str) -> None:
    path = small_artifacts(architecture)
    probes = Artifact.load(path).read_fingerprint()
    built = _build(path, backend, file, device="mps")
    np.testing.assert_allclose(built.run(probes.contexts), probes.predictions, rtol=0, atol=2e-5)
