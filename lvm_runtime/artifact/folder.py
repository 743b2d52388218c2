"""An artifact: the folder in which a trained model travels, and the only thing that the parts share.

    artifacts/amn/
      manifest.json        what is here, with hashes and measured drift
      model.safetensors    training-form weights under the reference keys
      fingerprint.npz      probe contexts and their known answers
      torchscript/…  onnx/…  coreml/…

The manifest is the commit point: a file that it does not list is not part of the artifact. Replacing a
compiled form first takes it out of the manifest, so that whatever moment a writer is stopped at, what
the manifest lists is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any

from lvm_runtime.artifact.config import ARCHITECTURES, ModelConfig
from lvm_runtime.artifact.fingerprint import Fingerprint
from lvm_runtime.artifact.manifest import CompiledFile, Manifest, StoredFile
from lvm_runtime.errors import ArtifactError, InvalidInput
from lvm_runtime.system import atomic

MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
FINGERPRINT = "fingerprint.npz"
DEFAULT_ROOT = Path("artifacts")


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
        """The model's architecture and sizes."""
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

        `weights` is a serialised safetensors file. Compiled forms of an earlier model are dropped with it.
        """
        path = Path(path)
        if path.exists() and not (path / MANIFEST).is_file() and (path.is_file() or any(path.iterdir())):
            raise ArtifactError(f"{path}: exists and is not an artifact; choose another output folder or move it away")
        with atomic.replacing(path) as folder:
            folder.mkdir()
            (folder / WEIGHTS).write_bytes(weights)
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
        """Open the artifact in the folder `path` and check its schema, and every file's size and hash.

        Raises ArtifactError with the file, what was found and what was expected.
        """
        path = Path(path)
        artifact = cls(path, _read_manifest(path))
        artifact.check()
        return artifact

    def check(self) -> None:
        """Compare every listed file with its recorded size and hash; ArtifactError names the first that differs."""
        manifest = self.manifest
        for expected in (manifest.weights, manifest.fingerprint, *(c.file for c in manifest.compiled)):
            _check_file(self.path, expected)

    def read_fingerprint(self) -> Fingerprint:
        """Read the probes and their known answers."""
        file = self.path / self.manifest.fingerprint.path
        return Fingerprint.from_bytes(file.read_bytes(), str(file))

    def file(self, compiled: CompiledFile) -> Path:
        """Return where a compiled form lies."""
        return self.path / compiled.file.path

    def find(self, format: str, *, precision: str | None = None, form: str = "context") -> tuple[CompiledFile, ...]:
        """Return the compiled forms of one format, in the order in which they were added."""
        return tuple(
            c
            for c in self.manifest.compiled
            if c.format == format and c.form == form and precision in (None, c.precision)
        )

    @contextlib.contextmanager
    def adding(self, relative: str) -> Iterator[Path]:
        """Yield a temporary path inside the artifact for a compiled form that is to lie at `relative`.

        The body writes and verifies it there and then calls `commit`. Without that call nothing is kept.
        """
        target = self.path / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        holder = target.parent / f".tmp-{target.name}"
        atomic.remove(holder)
        holder.mkdir()
        try:
            yield holder / target.name
        finally:
            atomic.remove(holder)
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
        details: dict[str, Any] | None = None,
    ) -> Artifact:
        """Move a verified compiled form from `temporary` to `relative` and list it; a listed one there is replaced."""
        atomic.sync_tree(temporary)
        with atomic.locked(self.path):
            manifest = _read_manifest(self.path)  # another process may have added to it since we loaded
            if manifest.weights.sha256 != self.manifest.weights.sha256:
                raise ArtifactError(f"{self.path}: its weights changed while {relative} was being made; export again")
            others = tuple(c for c in manifest.compiled if c.file.path != relative)
            if len(others) != len(manifest.compiled):
                atomic.write_bytes(self.path / MANIFEST, replace(manifest, compiled=others).to_json())
            atomic.remove(self.path / relative)
            temporary.rename(self.path / relative)
            entry = CompiledFile(
                describe(self.path, relative), format, precision, drift, form, batch_sizes, details or {}
            )
            manifest = replace(manifest, compiled=(*others, entry))
            atomic.write_bytes(self.path / MANIFEST, manifest.to_json())
        return Artifact(self.path, manifest)


def resolve(name: str | Path) -> Path:
    """Return the folder that `name` means: a path, or an architecture's name under `./artifacts`.

    Raises ArtifactError with the command that makes it when there is none.
    """
    if not isinstance(name, str | Path):
        raise InvalidInput(f"artifact is {name!r}, expected a folder or one of {', '.join(ARCHITECTURES)}")
    path = Path(name)
    if (path / MANIFEST).is_file():
        return path
    if str(name) in ARCHITECTURES:
        path = DEFAULT_ROOT / str(name)
        if (path / MANIFEST).is_file():
            return path
        raise ArtifactError(f"no artifact at {path}; make one with: lvm-runtime train --model {name} --out {path}")
    problem = f"has no {MANIFEST}" if path.exists() else "does not exist"
    raise ArtifactError(
        f"{path} {problem}; expected an artifact folder or one of {', '.join(ARCHITECTURES)}; "
        f"make one with: lvm-runtime train --model amn --out {path}"
    )


def describe(folder: Path, relative: str) -> StoredFile:
    """Return size and hash of the file or folder at `relative` below `folder`."""
    path = folder / relative
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    size = sum(p.stat().st_size for p in files)
    if not path.is_dir():
        return StoredFile(relative, size, _sha256(path))
    tree = hashlib.sha256()
    for p in files:
        tree.update(f"{p.relative_to(path).as_posix()}\0{_sha256(p)}\n".encode())
    return StoredFile(relative, size, tree.hexdigest())


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{file}: cannot be read ({error.strerror}); expected an artifact folder") from error
    return Manifest.from_json(data, str(file))


def _check_file(folder: Path, expected: StoredFile) -> None:
    relative = PurePosixPath(expected.path)
    if relative.is_absolute() or ".." in relative.parts:
        raise ArtifactError(f"{folder / MANIFEST}: path {expected.path!r} leaves the artifact")
    path = folder / relative
    if not path.exists():
        raise ArtifactError(f"{path}: missing, though listed in {MANIFEST}; export or train again")
    found = describe(folder, expected.path)
    if found.bytes != expected.bytes:
        raise ArtifactError(
            f"{path}: {found.bytes} bytes, expected {expected.bytes}; the file is truncated or replaced"
        )
    if found.sha256 != expected.sha256:
        raise ArtifactError(
            f"{path}: SHA-256 {found.sha256[:12]}…, expected {expected.sha256[:12]}…; the file was damaged or replaced"
        )
