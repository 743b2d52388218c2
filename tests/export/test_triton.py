"""Model repositories for Triton: as its definition says, and answered by a real server as by ours."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from export.triton.__main__ import command
from export.triton.repository import KINDS, MODEL, write_repository
from lvm_runtime import Artifact, ArtifactError, InvalidInput, Predictor
from lvm_runtime.models import save_model
from tests.artifacts import add_onnx, make_artifact, randomised, some_contexts
from tests.export.triton_server import triton
from tests.lvm_runtime.server.serving import serving
from tests.lvm_runtime.server.test_clients import infer

Get = Callable[[str], Path]


def _read(folder: Path) -> ModelConfig:
    return text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())


@pytest.mark.parametrize("architecture", ["amn", "lstm"])
def test_a_repository_is_what_the_definition_says(small_artifacts: Get, tmp_path: Path, architecture: str) -> None:
    artifact = Artifact.load(small_artifacts(architecture))
    python, compiled = write_repository(artifact, tmp_path, max_delay_ms=1.5, options={"max_drift": "1e-3"})
    graph = onnx.load(compiled / "1/model.onnx").graph
    for folder, backend in ((python, "python"), (compiled, "onnxruntime")):
        config = _read(folder)
        assert (config.name, config.backend, config.max_batch_size) == (folder.name, backend, 64)
        assert config.dynamic_batching.max_queue_delay_microseconds == 1500
        for tensors, values in ((config.input, graph.input), (config.output, graph.output)):
            sizes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim][1:] for value in values}
            assert {tensor.name: list(tensor.dims) for tensor in tensors} == sizes
    assert {name: value.string_value for name, value in _read(python).parameters.items()} == {
        "threads": "1",
        "max_drift": "1e-3",
    }
    Artifact.load(python / "1/artifact").check()
    with pytest.raises(InvalidInput, match="expected letters"):
        write_repository(artifact, tmp_path, name='a"b')


@pytest.mark.parametrize("name", ["amn", "amn_onnx"])
@pytest.mark.parametrize("change", ["no config", "config of others", "second version"])
def test_what_others_wrote_is_not_replaced(small_artifacts: Get, tmp_path: Path, name: str, change: str) -> None:
    """Such as the artifact itself, with `--out artifacts`, or a model of theirs that Triton serves."""
    artifact = Artifact.load(small_artifacts("amn"))
    (tmp_path / name).mkdir()
    write_repository(artifact, tmp_path)  # into an empty folder
    write_repository(artifact, tmp_path)  # over a model
    config = tmp_path / name / "config.pbtxt"
    if change == "second version":
        (tmp_path / name / "2").mkdir()
    elif change == "config of others":
        config.write_text(f'name: "{name}"\n')
    else:
        config.unlink()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(InvalidInput, match=f"{name}: holds what this export did not write; choose another --out"):
        write_repository(artifact, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_no_model_of_an_older_artifact_stays_beside_a_new_one(small_artifacts: Get, tmp_path: Path) -> None:
    python, compiled = write_repository(Artifact.load(small_artifacts("amn")), tmp_path / "models")
    assert compiled.name == "amn_onnx"
    without_onnx = make_artifact(tmp_path / "amn", onnx=False)
    assert write_repository(without_onnx, tmp_path / "models") == [python]
    assert not compiled.exists()


@pytest.mark.parametrize("change", ["trained again", "a form more", "two versions", "a file gone"])
def test_an_artifact_that_changes_while_it_is_copied_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    artifact, repository = make_artifact(tmp_path / "amn"), tmp_path / "models"
    write_repository(artifact, repository)
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    if change == "trained again":
        make_artifact(artifact.path, architecture="gru")
    elif change == "a form more":
        add_onnx(artifact, randomised("amn"), "onnx/other.onnx")
    else:
        copytree = shutil.copytree

        def copy(source: Path, target: Path, *options: Any, **named: Any) -> None:
            copytree(source, target, *options, **named)
            if Path(target).name != "artifact":  # it calls itself
                return
            if change == "two versions":
                shutil.copy(save_model(randomised("amn", seed=1), artifact.path).path / "manifest.json", target)
            else:
                shutil.copy(artifact.path / "gone", target)

        monkeypatch.setattr(shutil, "copytree", copy)
    with pytest.raises(ArtifactError, match=r"amn: .* if it was being changed, export it again when that has ended$"):
        write_repository(artifact, repository)
    assert before == {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}


def test_options_are_checked_as_the_model_will_read_them() -> None:
    kinds = ", ".join(f'"{name}": {kind.__name__}' for name, kind in KINDS.items())
    assert f"KINDS = {{{kinds}}}\n" in MODEL.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("backend", "tvm"), "unknown backend 'tvm'"),
        (("precision", "int4"), "precision is 'int4'"),
        (("max_drift", "little"), "max_drift is 'little', expected a number"),
        (("threads", "0"), "threads is 0"),
        (("device", "cpu"), "unknown option 'device'"),
    ],
    ids=["backend", "precision", "max_drift", "threads", "unknown"],
)
def test_what_a_predictor_would_refuse_is_not_written(
    small_artifacts: Get, tmp_path: Path, option: tuple[str, str], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        write_repository(Artifact.load(small_artifacts("amn")), tmp_path / "triton", options=dict([option]))
    assert not (tmp_path / "triton").exists()


def test_the_usual_folder_is_none_that_pytorch_imports(
    small_artifacts: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Triton's compiler is not installed, a folder `triton` here is taken for it, and torch.compile fails."""
    artifact = small_artifacts("amn")
    monkeypatch.chdir(tmp_path)
    assert command(["--model", str(artifact)]) == 0
    assert [folder.name for folder in tmp_path.iterdir()] == ["model_repository"]


@pytest.mark.soak
@pytest.mark.skipif(
    "LVM_TRITON" not in os.environ, reason="LVM_TRITON names a virtual environment with nvidia-pytriton"
)
def test_a_real_triton_answers_as_our_server_does(small_artifacts: Get, tmp_path: Path) -> None:
    path = small_artifacts("amn")
    (python, _) = write_repository(Artifact.load(path), tmp_path / "all")
    repository = tmp_path / "python"
    repository.mkdir()
    python.rename(repository / "amn")  # its build here has the Python backend only
    bad = some_contexts(2)
    bad[1, 2, 3] = np.nan
    with Predictor(path, threads=1) as predictor, serving(f"amn={path}") as ours, triton(repository) as theirs:
        for server in (ours, theirs):
            ask = tritonclient.grpc.InferenceServerClient(server.grpc)
            for count in (1, 2, 7, 64):
                contexts = some_contexts(count, seed=count)
                (found,) = infer(tritonclient.grpc, ask, contexts)
                np.testing.assert_array_equal(found, predictor.predict(contexts))
            both = infer(tritonclient.grpc, ask, contexts, outputs=("prediction", "attention"))
            for found, expected in zip(both, predictor.predict(contexts, return_attention=True), strict=True):
                np.testing.assert_array_equal(found, expected)
            with pytest.raises(Exception, match="row 1, position 2, component 3 is nan"):
                infer(tritonclient.grpc, ask, bad)
            ask.close()
