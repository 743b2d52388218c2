"""An artifact: the folder in which a trained model travels, and the only thing that the parts share.

    artifacts/amn/
      manifest.json        what is here, with hashes and measured drift
      model.safetensors    training-form weights under the reference keys
      fingerprint.npz      probe contexts and their known answers
      torchscript/…  onnx/…  native/…  mlx/…  coreml/…  coreai/…

The manifest is the commit point: what it lists is whole, whatever moment a writer is stopped at, because
replacing a compiled form first takes it out of the manifest. A file that it does not list is an error, unless
the `.tmp-` folder of its writer is still beside it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from lvm_runtime.arguments import file_name, shown
from lvm_runtime.artifact.config import ARCHITECTURES, ModelConfig
from lvm_runtime.artifact.files import check, check_size, check_strays, describe, read_plain
from lvm_runtime.artifact.fingerprint import Fingerprint
from lvm_runtime.artifact.limits import LARGEST_FINGERPRINT, LARGEST_MANIFEST
from lvm_runtime.artifact.manifest import CompiledFile, Manifest, check_path
from lvm_runtime.artifact.weights import check_header
from lvm_runtime.errors import ArtifactError, InvalidInput, LvmError
from lvm_runtime.system import atomic

MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
FINGERPRINT = "fingerprint.npz"
DEFAULT_ROOT = Path("artifacts")

_ATTEMPTS = 5
"""How often an artifact is read again because a writer changed its manifest between two looks at it."""

_Read = TypeVar("_Read")


@dataclass(frozen=True, slots=True)
class Artifact:
    """A checked artifact on disk. Immutable: `commit` returns the artifact as it is afterwards.

    >>> artifact = Artifact.load("artifacts/amn")
    >>> artifact.config.architecture, artifact.config.dim
    ('amn', 384)
    >>> [compiled.file.path for compiled in artifact.find("onnx")]
    ['onnx/fp32.onnx', 'onnx/int8.onnx']
    """

    path: Path
    manifest: Manifest

    @property
    def config(self) -> ModelConfig:
        """The model's architecture and sizes.

        >>> Artifact.load("artifacts/amn").config.context_length
        5
        """
        return self.manifest.config

    @classmethod
    def create(
        cls,
        path: str | Path,
        config: ModelConfig,
        weights: bytes,
        fingerprint: Fingerprint,
        provenance: dict[str, Any],
    ) -> Artifact:
        """Write a new artifact at `path` in one step, in place of any that was there.

        `weights` is a serialised safetensors file. Compiled forms of an earlier model are dropped with it. Raises
        ArtifactError, and leaves what is there, for weights that are not those of `config`.
        """
        path = file_name(path, "path")
        require_place(path, overwrite=True)
        # a form that is being added takes its turn, or the manifest with it would come into the new folder
        turn = atomic.locked(path) if os.path.exists(path) else contextlib.nullcontext()
        with turn, atomic.replacing(path) as folder, atomic.writing(path):
            folder.mkdir()
            (folder / WEIGHTS).write_bytes(weights)
            check_header(folder / WEIGHTS, config)
            (folder / FINGERPRINT).write_bytes(fingerprint.to_bytes())
            manifest = Manifest(
                config=config,
                created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                weights=describe(folder, WEIGHTS),
                fingerprint=describe(folder, FINGERPRINT),
                provenance=provenance,
            )
            (folder / MANIFEST).write_bytes(manifest.to_json())
        return cls(path, manifest)

    @classmethod
    def load(cls, path: str | Path) -> Artifact:
        """Open the artifact in the folder `path` and check its manifest, every file's size and hash, and the weights.

        Raises ArtifactError with the file, what was found and what was expected.

        >>> Artifact.load("artifacts")
        Traceback (most recent call last):
        lvm_runtime.errors.ArtifactError: artifacts/manifest.json: ...
        """

        def hashed(artifact: Artifact) -> Artifact:
            artifact._check_hashes()
            return artifact

        return cls.read(path, hashed)

    @classmethod
    def read(cls, path: str | Path, reader: Callable[[Artifact], _Read]) -> _Read:
        """Return `reader(artifact)` for the artifact in the folder `path`.

        If `reader` fails because a writer changed the manifest meanwhile, it is called again. Sizes are compared
        before, hashes are not: `reader` calls `check_file` for each file that it uses, so that hundreds of megabytes of
        other forms are not read. Raises ArtifactError, and what `reader` raises.

        >>> Artifact.read("artifacts/amn", Artifact.read_fingerprint).predictions.shape[1:]
        (384,)
        """
        path, attempts = file_name(path, "path"), _ATTEMPTS
        while True:
            artifact = cls(path, _read_manifest(path))
            try:
                artifact._check_sizes()
                return reader(artifact)
            except LvmError:
                attempts -= 1
                if not attempts or _read_manifest(path) == artifact.manifest:
                    raise

    def check(self) -> None:
        """Compare every listed file with its recorded size and hash, and the weights with the config.

        Raises ArtifactError for the first that differs, and for a file that is not listed.

        >>> artifact = Artifact.load("artifacts/amn")
        >>> artifact.check()  # again, before a long run say
        """
        self._check_sizes()
        self._check_hashes()

    def check_file(self, relative: str) -> None:
        """Compare the listed file at `relative` with its recorded size and hash; ArtifactError if it differs.

        >>> artifact = Artifact.load("artifacts/amn")
        >>> artifact.check_file("onnx/int8.onnx")
        """
        check(self.path, next(file for file in self.manifest.files if file.path == relative), MANIFEST)

    def _check_hashes(self) -> None:
        for expected in self.manifest.files:
            check(self.path, expected, MANIFEST)

    def _check_sizes(self) -> None:
        for expected in self.manifest.files:
            check_size(self.path, expected, MANIFEST)
        check_strays(self.path, [file.path for file in self.manifest.files], MANIFEST)
        check_header(self.path / self.manifest.weights.path, self.config)

    def is_there(self) -> bool:
        """Say whether the folder still holds this model; forms may have come or gone.

        >>> Artifact.load("artifacts/amn").is_there()
        True
        """
        return _read_manifest(self.path).model == self.manifest.model

    def read_fingerprint(self) -> Fingerprint:
        """Read the probes and their known answers; ArtifactError if they are not for this model's sizes.

        >>> fingerprint = Artifact.load("artifacts/amn").read_fingerprint()
        >>> fingerprint.contexts.shape[1:], fingerprint.predictions.shape[1:]  # n probes: [n, T, D] and [n, D]
        ((5, 384), (384,))
        """
        self.check_file(self.manifest.fingerprint.path)
        file = self.path / self.manifest.fingerprint.path
        fingerprint = Fingerprint.from_bytes(read_plain(file, LARGEST_FINGERPRINT), str(file))
        expected = (self.config.context_length, self.config.dim)
        if fingerprint.contexts.shape[1:] != expected:
            raise ArtifactError(f"{file}: contexts of {fingerprint.contexts.shape[1:]}, expected {expected}")
        if (fingerprint.attention is not None) != self.config.attention:
            raise ArtifactError(
                f"{file}: has {'no ' * (fingerprint.attention is None)}attention, and the architecture "
                f"{self.config.architecture} has {'none' if not self.config.attention else 'some'}"
            )
        return fingerprint

    def file(self, compiled: CompiledFile) -> Path:
        """Return where a compiled form lies.

        >>> artifact = Artifact.load("artifacts/amn")
        >>> artifact.file(artifact.find("onnx")[0]).is_file()
        True
        """
        return self.path / compiled.file.path

    def find(self, format: str, *, precision: str | None = None, form: str = "context") -> tuple[CompiledFile, ...]:
        """Return the compiled forms of one format, in the order in which they were added.

        `form` is "context" for batches of contexts, or "sequence" for every window of a document.

        >>> [compiled.file.path for compiled in Artifact.load("artifacts/amn").find("onnx", precision="int8")]
        ['onnx/int8.onnx']
        """
        return tuple(
            c
            for c in self.manifest.compiled
            if c.format == format and c.form == form and precision in (None, c.precision)
        )

    @contextlib.contextmanager
    def adding(self, relative: str) -> Iterator[Path]:
        """Yield a temporary path inside the artifact for a compiled form that is to lie at `relative`.

        The body writes and verifies it there and then calls `commit`. Without that call nothing is kept. Raises
        WriteFailed while another process adds the same form, InvalidInput for a place that no form can have.
        """
        self._check_place(relative)
        target = self.path / relative
        holder = target.parent / f"{atomic.TEMPORARY}{target.name}"
        try:
            with atomic.own_folder(holder):
                self._remove_unlisted(relative)  # a writer that was killed left it
                yield holder / target.name
        finally:
            with contextlib.suppress(OSError):
                target.parent.rmdir()  # only an empty one goes

    def commit(
        self,
        temporary: Path,
        relative: str,
        *,
        format: str,
        precision: str,
        drift: float,
        form: str = "context",
        batch_sizes: tuple[int, ...] | None = None,
        largest_norm: float | None = None,
        details: dict[str, Any] | None = None,
    ) -> Artifact:
        """Move a verified compiled form from `temporary` to `relative` and list it; a listed one there is replaced.

        Raises InvalidInput for a place that no form can have, and for what a manifest cannot hold.
        """
        self._check_place(relative)
        with atomic.locked(self.path):
            manifest = _read_manifest(self.path)  # another process may have added to it since we loaded
            if manifest.model != self.manifest.model:
                raise ArtifactError(
                    f"{self.path}: its config or weights changed while {relative} was being made; export again"
                )
            file = replace(describe(temporary.parent, temporary.name), path=relative)
            entry = CompiledFile(file, format, precision, drift, form, batch_sizes, largest_norm, details or {})
            others = tuple(c for c in manifest.compiled if c.file.path != relative)
            listed = replace(manifest, compiled=(*others, entry))
            data = listed.to_json()  # before anything is changed: it may be more than a manifest can hold
            if len(others) != len(manifest.compiled):
                atomic.write_bytes(self.path / MANIFEST, replace(manifest, compiled=others).to_json())
            try:
                atomic.remove(self.path / relative)
                atomic.move(temporary, self.path / relative)
                atomic.sync(self.path)  # the form's folder may be new
                atomic.write_bytes(self.path / MANIFEST, data)
            except BaseException:
                self._remove_unlisted(relative, locked=True)
                raise
        return Artifact(self.path, listed)

    def _check_place(self, relative: str) -> None:
        """Raise InvalidInput unless a form can lie at `relative`: inside, and not on, in or around another file."""
        try:
            check_path(relative, "relative")
        except ArtifactError as error:
            raise InvalidInput(str(error)) from error
        place = PurePosixPath(relative)
        forms = [form.file.path for form in self.manifest.compiled if form.file.path != relative]
        for other in map(PurePosixPath, (MANIFEST, self.manifest.weights.path, self.manifest.fingerprint.path, *forms)):
            if place == other or place in other.parents or other in place.parents:
                raise InvalidInput(f"relative is {relative!r}, where {other} is; expected another place")

    def _remove_unlisted(self, relative: str, *, locked: bool = False) -> None:
        """Remove what lies at `relative` if the manifest on the disk does not list it."""
        with contextlib.nullcontext() if locked else atomic.locked(self.path):
            if relative not in [file.path for file in _read_manifest(self.path).files]:
                atomic.remove(self.path / relative)


def resolve(name: str | Path) -> Path:
    """Return the folder that `name` means: a path, or an architecture's name under `./artifacts`.

    Raises ArtifactError with the command that makes it when there is none.
    """
    if not isinstance(name, str | Path):
        raise InvalidInput(f"artifact is {shown(name)}, expected a folder or one of {', '.join(ARCHITECTURES)}")
    path = Path(name)
    try:
        found = (path / MANIFEST).is_file()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); expected an artifact folder") from error
    if found:
        return path
    if str(name) in ARCHITECTURES:
        path = DEFAULT_ROOT / str(name)
        if (path / MANIFEST).is_file():
            return path
        raise ArtifactError(f"no artifact at {path}; make one with: lvm-runtime train --model {name} --out {path}")
    if path.is_file():
        raise ArtifactError(f"{path} is a file; expected an artifact folder or one of {', '.join(ARCHITECTURES)}")
    if path.exists():
        inside = sorted(str(found.parent) for found in path.glob(f"*/{MANIFEST}"))
        hint = f"; there is {', '.join(inside)}" if inside else ""
        raise ArtifactError(
            f"{path} has no {MANIFEST}; expected an artifact folder or one of {', '.join(ARCHITECTURES)}{hint}"
        )
    model = path.name if path.name in ARCHITECTURES else "amn"
    raise ArtifactError(
        f"{path} does not exist; expected an artifact folder or one of {', '.join(ARCHITECTURES)}; "
        f"make one with: lvm-runtime train --model {model} --out {path}"
    )


def require_place(path: Path, *, overwrite: bool) -> None:
    """Raise ArtifactError unless an artifact can be made at `path`: nothing is there, or one that `overwrite` gives up.

    For use before long work, too.
    """
    with atomic.writing(path):
        if os.path.isfile(path / MANIFEST) and os.path.isfile(path / FINGERPRINT):  # others have a manifest.json too
            if not overwrite:
                raise ArtifactError(f"{path}: holds an artifact; choose another --out, or give --overwrite")
        elif os.path.exists(path) and (path.is_file() or any(path.iterdir())):
            raise ArtifactError(f"{path}: exists and is not an artifact; choose another output folder or move it away")


def read_config(name: str | Path) -> ModelConfig:
    """Return architecture and sizes of the artifact that `name` means, without a look at its other files.

    Raises ArtifactError.
    """
    return _read_manifest(resolve(name)).config


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    return Manifest.from_json(read_plain(file, LARGEST_MANIFEST), str(file))
