"""From what a user types to what is exported: an artifact and its training form.

T context length, D vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from lvm_runtime.artifact.config import ARCHITECTURES, make_config
from lvm_runtime.artifact.drift import FP32_ABSOLUTE_LIMIT, largest_difference, require
from lvm_runtime.artifact.folder import DEFAULT_ROOT, MANIFEST, Artifact, resolve
from lvm_runtime.errors import ArtifactError, InvalidInput
from lvm_runtime.models import build_model, known_answers, load_model, save_model

from .randomise import randomise

UNTRAINED_SEED = 0
RANDOM = "none: random weights"
"""What the provenance of --untrained weights says of their training."""


@dataclass(frozen=True, slots=True)
class Source:
    """What an export starts from: `artifact`, and its training form `model` in float32 and eval mode."""

    artifact: Artifact
    model: nn.Module


def open_source(name: str, *, untrained: bool = False, dim: int = 768) -> Source:
    """Open the artifact that `name` (an architecture or a folder) means, checked, with its training form.

    With `untrained`, `name` is an architecture and the artifact is `artifacts/NAME-untrained`, made here with
    random weights for vectors of size `dim` if it is not there yet. Raises ArtifactError with the command that
    makes a missing artifact, or where another model is in the place of random weights, and VerificationFailed for
    weights that do not give the artifact's known answers.

    >>> open_source("amn").artifact.config.dim
    384
    """
    if untrained:
        return _untrained(name, dim)
    try:
        artifact = Artifact.load(resolve(name))
    except ArtifactError as error:
        if name in ARCHITECTURES and not (DEFAULT_ROOT / name / MANIFEST).is_file():
            raise ArtifactError(f"{error}; or try the export on random weights with --untrained") from error
        raise
    return _proved(artifact)


def _proved(artifact: Artifact) -> Source:
    """Return `artifact` with its training form; VerificationFailed if that does not give the known answers.

    Forms of other weights would pass their comparison with them, and be refused by each load.
    """
    model, fingerprint = load_model(artifact), artifact.read_fingerprint()
    off = largest_difference(known_answers(model, fingerprint.contexts)[0], fingerprint.predictions)
    what = f"{artifact.path}: largest difference between what its weights answer and the known answers"
    require(off, FP32_ABSOLUTE_LIMIT, what, "they are of two models, and nothing is exported: make the artifact again")
    return Source(artifact, model)


def _untrained(name: str, dim: int) -> Source:
    if name not in ARCHITECTURES:
        raise InvalidInput(f"--untrained makes weights for one of {', '.join(ARCHITECTURES)}; got {name!r}")
    path = Path(DEFAULT_ROOT / f"{name}-untrained")
    config = make_config(name, dim=dim)
    if (path / MANIFEST).is_file():
        artifact = Artifact.load(path)
        if (found := artifact.config) != config or artifact.manifest.provenance.get("training") != RANDOM:
            trained = "" if found != config else ", which is not of random weights"
            raise ArtifactError(
                f"{path}: holds another model ({found.architecture}, dim {found.dim}{trained}), expected "
                f"--untrained weights of dim {dim}; remove it or move it away, or give the --dim that it has"
            )
        return _proved(artifact)
    model = randomise(build_model(config), seed=UNTRAINED_SEED)
    return Source(save_model(model, path, provenance={"data": None, "training": RANDOM}), model)
