"""MLX, run on the CPU: parity in each precision, several threads, and plans that are not what they should be."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="mlx is not installed")

from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from export.forms import build_form
from export.mlx.export import export_mlx
from export.native.export import write_native
from export.source import Source
from export.verify import make_samples
from lvm_runtime import Predictor
from lvm_runtime.artifact.config import ARCHITECTURES, CONFIGS
from lvm_runtime.artifact.drift import DRIFT_LIMITS, max_drift
from lvm_runtime.artifact.fingerprint import random_contexts
from lvm_runtime.backends.mlx import MlxBackend
from lvm_runtime.backends.native import NativeBackend
from lvm_runtime.errors import ArtifactError, BackendUnavailable
from lvm_runtime.models import known_answers, save_model
from tests.artifacts import randomised

WIDTHS = {"small": {}, "odd": {"dim": 21, "hidden_dim": 12}, "one layer": {"num_layers": 1}}


def written(folder: Path, architecture: str, kind: str = "context", **sizes: int) -> tuple[Any, Path]:
    """Return a model and its plan in fp32."""
    values: dict[str, Any] = {**CONFIGS[architecture].small, **sizes}
    if architecture == "amn":
        values.pop("num_layers", None)
    model = randomised(architecture, **values)
    path = folder / f"{architecture}-{kind}.safetensors"
    write_native(build_form(model), path, kind, precision="fp32")
    return model, path


@pytest.mark.parametrize(
    ("width", "length"),
    [
        ("small", 1),
        ("odd", 2),
        ("small", 3),
        ("odd", 4),
        ("small", 5),
        ("odd", 6),
        ("small", 7),
        ("odd", 8),
        ("one layer", 5),
    ],
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fp32_equals_float64_in_both_forms(architecture: str, width: str, length: int, tmp_path: Path) -> None:
    model, path = written(tmp_path, architecture, context_length=length, **WIDTHS[width])
    contexts = random_contexts(7, length, model.config.dim)
    expected, attention = known_answers(model, contexts)
    backend = MlxBackend(path)
    for rows in (1, 7):
        np.testing.assert_allclose(backend.run(contexts[:rows]), expected[:rows], rtol=0, atol=1e-6)
    if attention is not None:
        np.testing.assert_allclose(backend.run_with_attention(contexts)[1], attention, rtol=0, atol=1e-6)
    _, sequence = written(tmp_path, architecture, "sequence", context_length=length, **WIDTHS[width])
    vectors = contexts.reshape(-1, model.config.dim)
    windows = np.lib.stride_tricks.sliding_window_view(vectors, length, axis=0).transpose(0, 2, 1)
    found = MlxBackend(sequence).run(vectors)
    np.testing.assert_allclose(found, known_answers(model, np.ascontiguousarray(windows))[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_narrow_arithmetic_is_narrow_and_of_norm_1(architecture: str, precision: str, tmp_path: Path) -> None:
    model, path = written(tmp_path, architecture)
    contexts = random_contexts(16, 5, model.config.dim)
    backend = MlxBackend(path, precision=precision)
    found = backend.run(contexts)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=0, atol=1e-6)
    assert 1e-9 < max_drift(found, known_answers(model, contexts)[0]) <= DRIFT_LIMITS[precision]
    assert backend.precision == precision


def test_threads_at_once_get_their_own_answers(tmp_path: Path) -> None:
    _, path = written(tmp_path, "gru")
    backend = MlxBackend(path)
    batches = [random_contexts(size, 5, 16, seed=size) for size in (1, 2, 3, 4) * 6]
    expected = [backend.run(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        for found, wanted in zip(pool.map(backend.run, batches), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_a_predictor_runs_what_was_exported(tmp_path: Path) -> None:
    model = randomised("amn")
    source = Source(save_model(model, tmp_path / "amn"), model)
    for kind in ("context", "sequence"):
        artifact = export_mlx(source, make_samples(source), kind)
    assert [c.form for c in artifact.find("mlx")] == ["context"]
    assert artifact.find("mlx")[0].drift <= 1e-11
    contexts = random_contexts(9, 5, 16)
    for precision in ("fp32", "fp16"):
        with Predictor(artifact.path, backend="mlx", precision=precision) as predictor:
            found, attention = predictor.predict(contexts, return_attention=True)
            assert max_drift(found, known_answers(model, contexts)[0]) <= DRIFT_LIMITS[precision]
            assert attention.shape == (9, 5)
            assert predictor.predict_sequence(contexts[0]).shape == (1, 16)
    script = f"""
import sys
from lvm_runtime import Predictor
Predictor({str(artifact.path)!r}, backend="mlx")
assert not {{"torch", "onnxruntime"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_options_that_it_cannot_honour_are_errors(tmp_path: Path) -> None:
    _, path = written(tmp_path, "amn")
    for options, message in (
        ({"threads": 2}, "chooses its threads itself"),
        ({"device": "cuda"}, "this MLX has the devices"),
        ({"precision": "int8"}, "computes in fp32 or fp16 or bf16"),
    ):
        with pytest.raises(BackendUnavailable, match=message):
            MlxBackend(path, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "expected"), [("add", [5, 3]), ("sub", [3, 5]), ("mul", [4, -4])])
def test_a_row_of_weights_is_added_subtracted_and_multiplied_as_in_the_native_engine(
    name: str, expected: list[float], tmp_path: Path
) -> None:
    window = {"per": "window", "size": 2}
    operations: list[dict[str, Any]] = [
        {"op": name, "x": [0, 0, 1, 0, 2], "out": [1, 0, 1, 0, 2], "weights": {"y": "row"}},
        {"op": "normalise", "x": [1, 0, 1, 0, 2], "out": [2, 0, 1, 0, 2], "weights": {}},
    ]
    plan = {"version": 1, "architecture": "any", "form": "context", "precision": "fp32", "context_length": 1, "dim": 2}
    plan |= {"buffers": [window] * 3, "outputs": {"prediction": 2}, "operations": operations}
    path = tmp_path / "fp32.safetensors"
    save_file({"row": np.array([1, -1], np.float32)}, path, {"plan": json.dumps(plan)})
    contexts = np.full((1, 1, 2), 4, np.float32)
    for backend in (MlxBackend(path), NativeBackend(path)):
        np.testing.assert_allclose(backend.run(contexts)[0], expected / np.linalg.norm(expected), rtol=1e-6)


def change(values: dict[str, Any], *path: Any, to: Any) -> None:
    """Set what lies at `path` in nested lists and objects."""
    for key in path[:-1]:
        values = values[key]
    values[path[-1]] = to


DAMAGES: dict[str, tuple[tuple[Any, ...], Any]] = {
    "version": (("version",), 2),
    "form": (("form",), "batch"),
    "precision": (("precision",), "int8"),
    "length": (("context_length",), 0),
    "huge dim": (("dim",), 1 << 40),
    "buffer": (("buffers", 1, "size"), -1),
    "unknown operation": (("operations", 0, "op"), "exec"),
    "a view outside": (("operations", 0, "x", 1), 3),
    "a view of no buffer": (("operations", 0, "x", 0), 99),
    "false for a number": (("operations", 0, "x", 1), False),
    "written twice": (("operations", 1, "out"), [0, 0, 1, 0, 8]),
    "read before it is written": (("operations", 0, "x", 0), 2),
    "unknown weight": (("operations", 0, "weights"), {"weight": "nothing"}),
    "no prediction": (("outputs",), {}),
    "prediction of another width": (("outputs", "prediction"), 0),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_malformed_plan_is_an_error_that_names_the_file(damage: str, tmp_path: Path) -> None:
    _, path = written(tmp_path, "lstm")
    with safe_open(path, "np") as file:
        plan = json.loads(file.metadata()["plan"])
    place, value = DAMAGES[damage]
    change(plan, *place, to=value)
    save_file(load_file(path), path, {"plan": json.dumps(plan)})
    with pytest.raises(ArtifactError, match=str(path)):
        MlxBackend(path)


def test_a_file_of_something_else_is_an_error_that_names_it(tmp_path: Path) -> None:
    file = tmp_path / "fp32.safetensors"
    file.write_bytes(b"not a plan")
    with pytest.raises(ArtifactError, match=str(file)):
        MlxBackend(file)
    _, path = written(tmp_path, "amn")
    save_file({n: t.astype(np.float16) for n, t in load_file(path).items()}, path, {"plan": "{}"})
    with pytest.raises(ArtifactError, match="float32 weights"):
        MlxBackend(path)
