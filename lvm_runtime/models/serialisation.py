"""From a training form to an artifact and back."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from lvm_runtime.artifact.config import ModelConfig
from lvm_runtime.artifact.fingerprint import Fingerprint, probe_contexts
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.errors import ArtifactError, InvalidInput, one_line
from lvm_runtime.models.build import build_model, known_answers


def save_model(
    model: nn.Module,
    path: str | Path,
    *,
    real_contexts: NDArray[np.floating] | None = None,
    provenance: dict[str, Any] | None = None,
) -> Artifact:
    """Write `model` as an artifact at `path`, with a fingerprint computed in float64.

    `real_contexts` `[n, T, D]` (held-out windows, if at hand) join the probes. Raises InvalidInput, and writes
    nothing, for weights that are not finite in float32.
    """
    require_finite(model, "the model")
    config: Any = model.config
    assert isinstance(config, ModelConfig)
    contexts = probe_contexts(config.dim, config.context_length, real_contexts)
    predictions, attention = known_answers(model, contexts)
    own = {"copy": True, "memory_format": torch.contiguous_format}  # tied weights are saved, and loaded, as two
    weights = {name: t.detach().to("cpu", torch.float32, **own) for name, t in model.state_dict().items()}
    versions = {"torch": str(torch.__version__), "python": platform.python_version()}
    return Artifact.create(
        path,
        config,
        save(weights),
        Fingerprint(contexts, predictions, attention),
        {"versions": versions} | (provenance or {}),
    )


def require_finite(model: nn.Module, source: str) -> None:
    """Raise InvalidInput, with `source` and the key, for a weight that is NaN or infinite in float32."""
    for name, weights in model.state_dict().items():
        wrong = weights.numel() - int(weights.float().isfinite().sum())
        if wrong:
            raise InvalidInput(
                f"{source}: {name} has {wrong} of {weights.numel()} values that are NaN or infinite; "
                "training has diverged: take an earlier checkpoint"
            )


def load_model(artifact: Artifact) -> nn.Module:
    """Rebuild the training form of an artifact on the CPU in float32 and eval mode.

    Raises ArtifactError if the weights are not those of the manifest, or not of its architecture and sizes.
    """
    artifact.check_file(artifact.manifest.weights.path)
    file = artifact.path / artifact.manifest.weights.path
    model = build_model(artifact.config, seed=0)  # which leaves the caller's random state alone
    try:
        model.load_state_dict(load_file(file), strict=True)
    except (RuntimeError, SafetensorError, OSError) as error:
        raise ArtifactError(
            f"{file}: not the weights of this {artifact.config.architecture}: {one_line(error)}"
        ) from error
    return model.eval()
