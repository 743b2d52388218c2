"""Small models and artifacts with real compiled forms; every parameter is random, as `export.randomise` says why."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from export.forms import build_form
from export.onnx.export import write_graph
from export.randomise import randomise
from export.source import Source
from export.torchscript import trace_form
from lvm_runtime.artifact.config import CONFIGS, make_config
from lvm_runtime.artifact.fingerprint import random_contexts
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.artifact.manifest import seal
from lvm_runtime.models import build_model, save_model


def randomised(architecture: str, *, seed: int = 0, **sizes: Any) -> nn.Module:
    """Return a model in eval mode in which every parameter has its own random values, a small one without `sizes`."""
    return randomise(build_model(make_config(architecture, **(sizes or CONFIGS[architecture].small))), seed=seed)


def with_epsilon(source: Source, epsilon: float) -> Source:
    """Return `source` with a model whose LayerNorms have another epsilon."""
    model = copy.deepcopy(source.model)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = epsilon
    return Source(source.artifact, model)


def with_other_heads(model: nn.Module) -> nn.Module:
    """Return a Transformer with the weights of `model` and twice its heads: another model, whose weights are equal."""
    config: Any = model.config
    other = build_model(replace(config, num_heads=2 * config.num_heads))
    other.load_state_dict(model.state_dict())
    return other.eval()


def add_onnx(
    artifact: Artifact, model: nn.Module, relative: str = "onnx/fp32.onnx", *, kind: str = "context", **listed: Any
) -> Artifact:
    """Write the model's deployment form as ONNX, unverified, and list it in the artifact."""
    details: dict[str, Any] = {"format": "onnx", "precision": "fp32", "drift": 1e-12, "form": kind} | listed
    with artifact.adding(relative) as path:
        write_graph(build_form(model), path, details["precision"], kind)
        return artifact.commit(path, relative, **details)


def add_torchscript(artifact: Artifact, model: nn.Module) -> Artifact:
    """Trace the model's deployment form, unverified, and list it in the artifact."""
    with artifact.adding("torchscript/fp32.pt") as path:
        trace_form(build_form(model), path)
        return artifact.commit(path, "torchscript/fp32.pt", format="torchscript", precision="fp32", drift=1e-12)


def make_artifact(folder: Path, architecture: str = "amn", *, onnx: bool = True, **sizes: Any) -> Artifact:
    """Write an artifact of a randomised model, with an ONNX form unless told otherwise."""
    model = randomised(architecture, **sizes)
    artifact = save_model(model, folder)
    return add_onnx(artifact, model) if onnx else artifact


def edit_manifest(artifact: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest on the disk and seal it again, as somebody who means harm would."""
    body = json.loads((artifact / "manifest.json").read_text())
    body.pop("digest")
    edit(body)
    (artifact / "manifest.json").write_bytes(seal(body))


def flip(file: Path, place: float) -> None:
    """Change one byte of a file: the first at 0, the last at 1."""
    data = bytearray(file.read_bytes())
    data[int(place * (len(data) - 1))] ^= 0xFF
    file.write_bytes(data)


def some_contexts(batch: int, dim: int = 16, length: int = 5, *, seed: int = 1) -> Any:
    """Return random contexts `[batch, length, dim]` float32, by default for small models."""
    return random_contexts(batch, length, dim, seed=seed)
