"""A backend is one file and one line: this file, and `BACKENDS["toy"]`."""

from __future__ import annotations

import ast
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import lvm_runtime
from lvm_runtime import BackendUnavailable, Predictor, VerificationFailed
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends.base import Array, Backend
from lvm_runtime.backends.registry import BACKENDS, backend_class
from lvm_runtime.commands.main import main
from lvm_runtime.request import Request
from lvm_runtime.selection import measurements
from lvm_runtime.selection.candidates import list_candidates
from lvm_runtime.selection.tuning import tune
from lvm_runtime.system.cpus import usable_cpus
from tests.artifacts import some_contexts

Get = Callable[[str], Path]


class ToyBackend(Backend):
    """The AMN in plain numpy, from the training weights."""

    name = "toy"
    format = None
    framework = "numpy"
    install = "pip install numpy"
    precisions = ("fp32",)

    def __init__(
        self, source: Path, *, device: str = "auto", threads: int | None = None, precision: str | None = None
    ) -> None:
        self.load_framework()
        if device not in ("auto", "cpu"):
            raise BackendUnavailable(f"backend toy runs on the cpu, and device {device!r} was asked for")
        self.device, self.precision = "cpu", self.arithmetic(precision)
        artifact = Artifact.load(source)
        self._w = load_file(artifact.path / artifact.manifest.weights.path)

    def run(self, contexts: Array) -> Array:
        return self.run_with_attention(contexts)[0]

    def run_with_attention(self, contexts: Array) -> tuple[Array, Array]:
        mean, w = contexts.mean(axis=1), self._w
        keys, query = self._linear(contexts, "context_encoder"), self._linear(mean, "query_encoder")
        scores = np.exp(np.einsum("bta,ba->bt", keys, query) / np.sqrt(query.shape[1]))
        attention = scores / scores.sum(axis=1, keepdims=True)
        hidden = np.concatenate([mean, np.einsum("bt,btd->bd", attention, contexts)], axis=1)
        for linear, norm in (("residual_net.0", "residual_net.2"), ("residual_net.3", "residual_net.5")):
            hidden = _gelu(self._linear(hidden, linear))
            hidden = hidden - hidden.mean(axis=1, keepdims=True)
            hidden /= np.sqrt(np.square(hidden).mean(axis=1, keepdims=True) + 1e-5)
            hidden = hidden * w[f"{norm}.weight"] + w[f"{norm}.bias"]
        prediction = mean + self._linear(hidden, "residual_net.6")
        prediction /= np.linalg.norm(prediction, axis=1, keepdims=True)
        return prediction.astype(np.float32), attention.astype(np.float32)

    def _linear(self, x: Any, name: str) -> Any:
        return x @ self._w[f"{name}.weight"].T + self._w[f"{name}.bias"]


class WrongBackend(ToyBackend):
    """The toy with every component moved a little."""

    name = "wrong"

    def run_with_attention(self, contexts: Array) -> tuple[Array, Array]:
        predictions, attention = super().run_with_attention(contexts)
        return predictions + np.float32(1e-2), attention


def _gelu(x: Any) -> Any:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "toy", f"{__name__}:ToyBackend")
    monkeypatch.setitem(BACKENDS, "wrong", f"{__name__}:WrongBackend")


def test_it_is_a_candidate_and_serves(small_artifacts: Get) -> None:
    path, contexts = small_artifacts("amn"), some_contexts(7)
    candidates, _ = list_candidates(Artifact.load(path), Request())
    assert "toy fp32 (model.safetensors)" in map(str, candidates)
    with Predictor(path, backend="toy", device="cpu") as toy, Predictor(path, backend="onnx") as onnx:
        for found, expected in zip(
            toy.predict(contexts, return_attention=True), onnx.predict(contexts, return_attention=True), strict=True
        ):
            np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
        document = contexts.reshape(35, 16)
        np.testing.assert_allclose(toy.predict_sequence(document), onnx.predict_sequence(document), rtol=0, atol=2e-6)
        running = toy.explain().running
    assert (running.backend, running.device, running.precision, running.threads) == ("toy", "cpu", "fp32", None)
    assert 0 < running.drift < 1e-12


def test_it_has_to_give_the_known_answers(small_artifacts: Get) -> None:
    with pytest.raises(VerificationFailed, match=r"wrong fp32 .*: drift from the known answers"):
        Predictor(small_artifacts("amn"), backend="wrong")


def test_it_is_chosen_where_it_was_measured_to_be_the_fastest(
    small_artifacts: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in set(BACKENDS) - {"toy", "onnx"}:
        monkeypatch.delitem(BACKENDS, name)
    found, _ = tune(small_artifacts("amn"), Request(device="cpu"))
    measurements.save(
        Artifact.load(small_artifacts("amn")),
        usable_cpus(),
        [replace(m, seconds=(1.0 + (m.backend != "toy"),) * 3) for m in found],
    )
    with Predictor(small_artifacts("amn"), device="cpu") as predictor:
        assert predictor.explain().running.backend == "toy"


def test_options_that_it_cannot_honour_are_errors(small_artifacts: Get) -> None:
    for options in ({"device": "cuda"}, {"precision": "bf16"}):
        with pytest.raises(BackendUnavailable, match="backend toy"):
            Predictor(small_artifacts("amn"), backend="toy", **options)


def test_doctor_lists_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("toy")]
    assert line.split() == ["toy", "yes", "numpy", f"{np.__version__},", "cpu"]


BY_NAME = {"backends/onnx.py", "backends/registry.py"}
"""Where the backend is named. As a file format it is named in two more files, as a package in one."""
BY_FORMAT = {"backends/openvino.py": 1, "artifact/manifest.py": 1, "system/machine.py": 1}


def test_no_other_code_names_a_backend() -> None:
    root = Path(lvm_runtime.__file__).parent
    for file in root.rglob("*.py"):
        name = file.relative_to(root).as_posix()
        if name in BY_NAME or name.split("/")[0] in ("train", "export"):
            continue
        tree = ast.parse(file.read_text())
        said = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value == "onnx"]
        assert len(said) == BY_FORMAT.get(name, 0), f"{name} names onnx"
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert "lvm_runtime.backends.onnx" not in imported, f"{name} imports one backend"


def test_every_adapter_can_be_imported_without_its_framework() -> None:
    program = f"""
import sys
frameworks = {sorted({backend_class(name).framework for name in BACKENDS} - {"numpy"})}
sys.modules.update(dict.fromkeys(frameworks))
from lvm_runtime.backends import BACKENDS, backend_class
for name in BACKENDS:
    cls = backend_class(name)
    assert cls.name == name
"""
    subprocess.run([sys.executable, "-c", program], check=True)
