"""The manifest of an artifact: what is in the folder, and what was measured of it.

The dataclasses below *are* the schema. A missing or unknown key is an error that names the file and the
key, because a manifest that is half understood is not understood. Only what has a default may be left out: older
versions did not write all of it.

The last line but one of the file is the SHA-256 of everything before it, so that a changed bit anywhere is an error.
Schema 1 had no such line; it is still read.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import PurePosixPath
from typing import Any, TypeVar

from lvm_runtime.artifact.config import ModelConfig, make_config
from lvm_runtime.artifact.drift import PRECISIONS
from lvm_runtime.artifact.files import StoredFile, is_finders
from lvm_runtime.artifact.json_text import numbers_or_null, parse_object
from lvm_runtime.artifact.limits import (
    LARGEST_BATCH,
    LARGEST_FILE,
    LARGEST_MANIFEST,
    LARGEST_PATH,
    MOST_BATCH_SIZES,
    MOST_COMPILED,
)
from lvm_runtime.errors import ArtifactError, InvalidInput
from lvm_runtime.system.atomic import TEMPORARY

SCHEMA_VERSION = 2
FORMATS = ("torchscript", "onnx", "native", "mlx", "coreml", "coreai")
FORMS = ("context", "sequence")

_DIGEST = re.compile(rb',\n  "digest": "([0-9a-f]{64})"\n}\n\Z')

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CompiledFile:
    """One compiled form.

    `form` is "context" (`[B, T, D]` to `[B, D]`) or "sequence" (`[N, D]` to `[N−T+1, D]`); `batch_sizes` are the
    only ones it takes, or None for any; `drift` is the largest row drift measured when it was made (1 − cosine), and
    `largest_norm` the largest norm of vectors up to which it was measured to stay within its precision's limit, or None
    where only the backend's own limit counts; `details` holds what its maker wants to remember, as JSON values.
    """

    file: StoredFile
    format: str
    precision: str
    drift: float
    form: str = "context"
    batch_sizes: tuple[int, ...] | None = None
    largest_norm: float | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        what = f"compiled file {self.file.path}"
        for name, value, known in (
            ("format", self.format, FORMATS),
            ("precision", self.precision, PRECISIONS),
            ("form", self.form, FORMS),
        ):
            if value not in known:
                raise InvalidInput(f"{what}: {name} is {value!r}, expected one of {known}")
        if not _is_number(self.drift):
            raise InvalidInput(f"{what}: drift is {self.drift!r}, expected a number from 0")
        if self.largest_norm is not None and not _is_number(self.largest_norm):
            raise InvalidInput(f"{what}: largest_norm is {self.largest_norm!r}, expected a number from 0, or null")
        if not isinstance(self.details, dict):
            raise InvalidInput(f"{what}: details is {type(self.details).__name__}, expected an object")
        sizes = self.batch_sizes
        if sizes is not None and not 1 <= len(sizes) <= MOST_BATCH_SIZES:
            raise InvalidInput(f"{what}: {len(sizes)} batch_sizes, expected 1 to {MOST_BATCH_SIZES}, or null")
        if wrong := [s for s in sizes or () if type(s) is not int or not 1 <= s <= LARGEST_BATCH]:
            raise InvalidInput(f"{what}: batch_sizes has {wrong[0]!r}, expected whole numbers 1 to {LARGEST_BATCH}")


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value < math.inf


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything an artifact says of itself; `provenance` holds data, metrics and versions as JSON values."""

    config: ModelConfig
    created: str
    weights: StoredFile
    fingerprint: StoredFile
    provenance: dict[str, Any] = field(default_factory=dict)
    compiled: tuple[CompiledFile, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.created, str) or not isinstance(self.provenance, dict):
            raise InvalidInput("created or provenance has the wrong type; expected a string and an object")

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """Every file and package of the artifact but the manifest."""
        return (self.weights, self.fingerprint, *(c.file for c in self.compiled))

    @property
    def takes_unit_vectors(self) -> bool:
        """Whether training divided every vector by its length (`train --normalize`), as whoever asks then has to."""
        training = self.provenance.get("training")
        options = training.get("options") if isinstance(training, dict) else None
        return isinstance(options, dict) and options.get("normalize") is True

    @property
    def model(self) -> str:
        """What tells this model from any other: the hash of its weights and of its config.

        Weights alone do not say how many heads read them, nor how many vectors a context has.
        """
        about = {"architecture": self.config.architecture, "weights": self.weights.sha256, **self.config.to_dict()}
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> bytes:
        """Serialise; `schema` and `architecture` come first, so that a reader can stop there, the digest last."""
        body = asdict(self)
        body["config"] = self.config.to_dict()
        head = {"schema": SCHEMA_VERSION, "architecture": self.config.architecture}
        try:
            data = seal(numbers_or_null(head | body))
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidInput(f"the manifest cannot hold this: {error}") from error
        if len(data) > LARGEST_MANIFEST:
            raise InvalidInput(f"the manifest has {len(data):,} bytes, expected at most {LARGEST_MANIFEST:,}")
        parse_object(data, "the manifest")  # provenance or details may be too deep
        return data

    @classmethod
    def from_json(cls, data: bytes, source: str) -> Manifest:
        """Parse what `to_json` wrote; anything else is an ArtifactError that names `source` and the key."""
        body = parse_object(data, source)
        schema = body.pop("schema", None)
        if type(schema) is not int or not 1 <= schema <= SCHEMA_VERSION:
            raise ArtifactError(
                f"{source}: schema {schema!r}, and this version reads schema 1 to {SCHEMA_VERSION}; "
                "upgrade lvm_runtime, or export the artifact again with this version"
            )
        if schema > 1:
            _check_digest(data, source)
            body.pop("digest", None)
        for key in ("architecture", "config", "weights", "fingerprint"):
            if key not in body:
                raise ArtifactError(f"{source}: missing key {key!r}")
        architecture = body.pop("architecture")
        try:
            config = _typed(body["config"], dict, f"{source}: config")
            body["config"] = make_config(str(architecture), **config)
            for key in ("weights", "fingerprint"):
                body[key] = _stored(body[key], f"{source}: {key}")
            items = _typed(body.get("compiled", []), list, f"{source}: compiled")
            if len(items) > MOST_COMPILED:
                raise ArtifactError(f"{source}: {len(items)} compiled forms, expected at most {MOST_COMPILED}")
            body["compiled"] = tuple(_compiled(item, source) for item in items)
            return _build(cls, body, source)
        except InvalidInput as error:
            raise ArtifactError(f"{source}: {error}") from error


def seal(body: Mapping[str, Any]) -> bytes:
    """Return `body` as JSON that ends in the digest of everything before."""
    text = json.dumps(body, indent=2).removesuffix("\n}").encode()
    return text + f',\n  "digest": "{hashlib.sha256(text).hexdigest()}"\n}}\n'.encode()


def _check_digest(data: bytes, source: str) -> None:
    found = _DIGEST.search(data, max(len(data) - 128, 0))
    if found is None:
        raise ArtifactError(f"{source}: does not end in its digest; the file was damaged or edited: export again")
    if hashlib.sha256(data[: found.start()]).hexdigest().encode() != found[1]:
        raise ArtifactError(f"{source}: differs from its digest; the file was damaged or edited: export again")


def _compiled(item: Any, source: str) -> CompiledFile:
    where = f"{source}: compiled"
    values = dict(_typed(item, dict, where))
    if "file" in values:
        values["file"] = _stored(values["file"], f"{where}: file")
    if values.get("batch_sizes") is not None:
        values["batch_sizes"] = tuple(_typed(values["batch_sizes"], list, f"{where}: batch_sizes"))
    return _build(CompiledFile, values, where)


def _stored(values: Any, source: str) -> StoredFile:
    file = _build(StoredFile, _typed(values, dict, source), source)
    check_path(file.path, source)
    if type(file.bytes) is not int or not 0 <= file.bytes <= LARGEST_FILE:
        raise ArtifactError(f"{source}: bytes is {file.bytes!r}, expected a whole number up to {LARGEST_FILE:,}")
    if not re.fullmatch("[0-9a-f]{64}", _typed(file.sha256, str, f"{source}: sha256")):
        raise ArtifactError(f"{source}: sha256 is {file.sha256[:80]!r}, expected 64 hexadecimal digits")
    return file


def check_path(path: Any, source: str) -> None:
    """Raise ArtifactError, with `source`, unless `path` is the plain name of a file below an artifact."""
    relative = PurePosixPath(_typed(path, str, f"{source}: path"))
    if relative.is_absolute() or ".." in relative.parts:
        raise ArtifactError(f"{source}: path {path!r} leaves the artifact")
    plain = path.isprintable() and "\\" not in path and len(path) <= LARGEST_PATH
    hidden = any(part.startswith(TEMPORARY) or is_finders(part) for part in relative.parts)
    if not plain or not relative.parts or str(relative) != path or hidden:
        raise ArtifactError(f"{source}: path {path[:LARGEST_PATH]!r}, expected one such as onnx/fp32.onnx")


def _typed(value: Any, kind: type[T], source: str) -> T:
    if not isinstance(value, kind):
        expected = {"dict": "an object", "list": "a list", "str": "a string"}[kind.__name__]
        raise ArtifactError(f"{source}: expected {expected}, got {type(value).__name__}")
    return value


def _build(cls: type[T], values: Mapping[str, Any], source: str) -> T:
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(known)):
        raise ArtifactError(f"{source}: unknown key {unknown[0]!r}; expected {', '.join(known)}")
    for name, spec in known.items():
        if name not in values and spec.default is MISSING and spec.default_factory is MISSING:
            raise ArtifactError(f"{source}: missing key {name!r}")
    return cls(**values)
