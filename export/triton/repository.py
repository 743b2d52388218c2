"""A model repository for Triton: the artifact behind the Python backend, and its ONNX file behind the ONNX backend.

Both take contexts and give predictions under the names that our own server uses. Batches may be put together by Triton,
because a vector does not change with the rest of its batch.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from lvm_runtime.arguments import finite_number, whole_number
from lvm_runtime.artifact.config import ModelConfig
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.errors import ArtifactError, InvalidInput, one_line
from lvm_runtime.request import Request
from lvm_runtime.system import atomic

MODEL = Path(__file__).with_name("model.py")
_CONFIG = "config.pbtxt"
_MARK = "# Made by lvm-runtime export triton, which replaces this folder.\n"
KINDS = {"backend": str, "precision": str, "max_drift": float, "threads": int}
"""What `MODEL`, which Triton's Python alone can import, makes of the text of an option."""


def write_repository(
    artifact: Artifact,
    out: Path,
    *,
    name: str | None = None,
    max_batch: int = 64,
    max_delay_ms: float = 0.0,
    instances: int = 1,
    options: dict[str, str] | None = None,
) -> list[Path]:
    """Write the models NAME and NAME_onnx into the folder `out`, and return their folders.

    A batch has up to `max_batch` contexts and waits `max_delay_ms` for more. `options` are a Predictor's backend,
    precision, max_drift and threads, as text. Each of the `instances` is a process with a Predictor of its own. Without
    an ONNX form in full precision there is no second model. A model that an earlier call wrote is replaced in one step,
    or removed with the form. Raises InvalidInput where something else is, a model of Triton by others included, and
    ArtifactError for an artifact that changes meanwhile; then all stays as it was.
    """
    whole_number(instances, "instances")
    _check(options or {})
    batching = _batching(whole_number(max_batch, "max_batch"), finite_number(max_delay_ms, "max_delay_ms", example="2"))
    name = name or artifact.config.architecture
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise InvalidInput(f"name is {name!r}, expected letters, digits, - _ and .")
    compiled = artifact.find("onnx", precision="fp32")
    python, graph = out / name, out / f"{name}_onnx"
    for folder in (python, graph):
        if folder.is_dir() and any(folder.iterdir()) and not _replaceable(folder):
            raise InvalidInput(f"{folder}: holds what this export did not write; choose another --out or --name")
    running = f"{batching}instance_group [ {{ kind: KIND_CPU count: {instances} }} ]\n"
    parameters = {"threads": "1"} | (options or {})
    with atomic.replacing(python) as folder:
        copy = _write_python_model(folder, name, artifact, running, parameters)
        if compiled:
            with atomic.replacing(graph) as other:
                _write_onnx_model(other, graph.name, copy, running, copy.file(compiled[0]))
    if compiled:
        return [python, graph]
    if graph.is_dir():
        shutil.rmtree(graph)
    return [python]


def _write_python_model(
    folder: Path, name: str, artifact: Artifact, running: str, parameters: dict[str, str]
) -> Artifact:
    """Write the model `name` that runs the artifact in Triton's Python backend, by a Predictor with `parameters`.

    Returns the artifact's copy in it, which is whole.
    """
    text = "".join(f'parameters {{ key: "{k}" value {{ string_value: "{v}" }} }}\n' for k, v in parameters.items())
    copy = _copied(artifact, folder / "1/artifact")
    shutil.copy(MODEL, folder / "1/model.py")
    (folder / _CONFIG).write_text(_config(name, "python", artifact.config) + running + text)
    return copy


def _copied(artifact: Artifact, place: Path) -> Artifact:
    """Copy the artifact; ArtifactError if a training or an export changes it meanwhile."""
    again = "if it was being changed, export it again when that has ended"
    try:
        shutil.copytree(artifact.path, place, ignore=shutil.ignore_patterns(".*"))
        copy = Artifact.load(place)
    except (shutil.Error, FileNotFoundError, ArtifactError) as error:  # files of two versions, or one that went
        raise ArtifactError(f"{artifact.path}: no whole copy of it ({one_line(error, 300)}); {again}") from error
    if copy.manifest != artifact.manifest:
        raise ArtifactError(f"{artifact.path}: its manifest changed while it was copied; {again}")
    return copy


def _write_onnx_model(folder: Path, name: str, artifact: Artifact, running: str, graph: Path) -> None:
    """Write the model `name` that runs the ONNX file `graph` in Triton's own backend for it."""
    (folder / "1").mkdir(parents=True)
    shutil.copy(graph, folder / "1/model.onnx")
    (folder / _CONFIG).write_text(_config(name, "onnxruntime", artifact.config) + running)


def _replaceable(folder: Path) -> bool:
    """Whether all of `folder` was written by `write_repository`."""
    config = folder / _CONFIG
    if {path.name for path in folder.iterdir()} != {_CONFIG, "1"} or not config.is_file():
        return False
    return config.read_bytes().startswith(_MARK.encode())


def _check(options: dict[str, str]) -> None:
    """Refuse what a Predictor would refuse when Triton loads it."""
    values: dict[str, Any] = {}
    for name, text in options.items():
        if name not in KINDS:
            raise InvalidInput(f"unknown option {name!r}, expected {', '.join(KINDS)}")
        try:
            values[name] = KINDS[name](text)
        except ValueError as error:
            raise InvalidInput(f"{name} is {text!r}, expected a number") from error
    Request(**values)


def _config(name: str, backend: str, config: ModelConfig) -> str:
    length, dim = config.context_length, config.dim
    outputs = {"prediction": dim} | ({"attention": length} if config.attention else {})
    listed = ",\n".join(
        f'  {{ name: "{output}" data_type: TYPE_FP32 dims: [ {size} ] }}' for output, size in outputs.items()
    )
    return (
        f'{_MARK}name: "{name}"\nbackend: "{backend}"\n'
        f'input [\n  {{ name: "context" data_type: TYPE_FP32 dims: [ {length}, {dim} ] }}\n]\noutput [\n{listed}\n]\n'
    )


def _batching(max_batch: int, max_delay_ms: float) -> str:
    delay = f"max_queue_delay_microseconds: {round(max_delay_ms * 1000)}"
    return f"max_batch_size: {max_batch}\ndynamic_batching {{ {delay} }}\n"
