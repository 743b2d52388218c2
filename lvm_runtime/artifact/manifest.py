"""The manifest of an artifact: what is in the folder, and what was measured of it.

The dataclasses below *are* the schema. A missing or unknown key is an error that names the file and the
key, because a manifest that is half understood is not understood.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, TypeVar

from lvm_runtime.artifact.config import ModelConfig, make_config
from lvm_runtime.artifact.drift import PRECISIONS
from lvm_runtime.errors import ArtifactError, InvalidInput

SCHEMA_VERSION = 1
FORMATS = ("torchscript", "onnx", "native", "coreml")
FORMS = ("context", "sequence")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """Path relative to the artifact, size in bytes and SHA-256 of a file, or of a folder as one tree."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class CompiledFile:
    """One compiled form.

    `form` is "context" (`[B, T, D]` to `[B, D]`) or "sequence" (`[N, D]` to `[N−T+1, D]`); `batch_sizes` are the
    only ones it takes, or None for any; `drift` is the largest row drift measured when it was made (1 − cosine);
    `details` holds what its maker wants to remember, as JSON values.
    """

    file: StoredFile
    format: str
    precision: str
    drift: float
    form: str = "context"
    batch_sizes: tuple[int, ...] | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value, known in (
            ("format", self.format, FORMATS),
            ("precision", self.precision, PRECISIONS),
            ("form", self.form, FORMS),
        ):
            if value not in known:
                raise InvalidInput(f"compiled file {self.file.path}: {name} is {value!r}, expected one of {known}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything an artifact says of itself; `provenance` holds data, metrics and versions as JSON values."""

    config: ModelConfig
    created: str
    weights: StoredFile
    fingerprint: StoredFile
    provenance: dict[str, Any] = field(default_factory=dict)
    compiled: tuple[CompiledFile, ...] = ()

    def to_json(self) -> bytes:
        """Serialise; `schema` and `architecture` come first, so that a reader can stop there."""
        body = asdict(self)
        body["config"] = self.config.to_dict()
        head = {"schema": SCHEMA_VERSION, "architecture": self.config.architecture}
        return (json.dumps(head | body, indent=2, sort_keys=False) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, source: str) -> Manifest:
        """Parse what `to_json` wrote; anything else is an ArtifactError that names `source` and the key."""
        try:
            body = json.loads(data)
        except ValueError as error:
            raise ArtifactError(f"{source}: not valid JSON ({error})") from error
        if not isinstance(body, dict):
            raise ArtifactError(f"{source}: expected an object, got {type(body).__name__}")
        schema = body.pop("schema", None)
        if not isinstance(schema, int) or not 1 <= schema <= SCHEMA_VERSION:
            raise ArtifactError(
                f"{source}: schema {schema!r}, and this version reads schema {SCHEMA_VERSION}; "
                "upgrade lvm_runtime, or export the artifact again with this version"
            )
        architecture = body.pop("architecture", None)
        try:
            body["config"] = make_config(str(architecture), **body.get("config", {}))
            for key in ("weights", "fingerprint"):
                if key in body:
                    body[key] = _build(StoredFile, body[key], f"{source}: {key}")
            body["compiled"] = tuple(_compiled(item, source) for item in body.get("compiled", ()))
            return _build(cls, body, source)
        except (InvalidInput, TypeError) as error:
            raise ArtifactError(f"{source}: {error}") from error


def _compiled(item: Any, source: str) -> CompiledFile:
    if not isinstance(item, dict):
        raise ArtifactError(f"{source}: compiled: expected an object, got {type(item).__name__}")
    values = dict(item)
    if "file" in values:
        values["file"] = _build(StoredFile, values["file"], f"{source}: compiled: file")
    if values.get("batch_sizes") is not None:
        values["batch_sizes"] = tuple(values["batch_sizes"])
    return _build(CompiledFile, values, f"{source}: compiled")


def _build(cls: type[T], values: Mapping[str, Any], source: str) -> T:
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(known)):
        raise ArtifactError(f"{source}: unknown key {unknown[0]!r}; expected {', '.join(known)}")
    for name, spec in known.items():
        if name not in values and spec.default is MISSING and spec.default_factory is MISSING:
            raise ArtifactError(f"{source}: missing key {name!r}")
    return cls(**values)
