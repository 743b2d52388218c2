"""Compiled Core ML models, kept in one fixed place.

Core ML specialises a compiled model for the device when it is first loaded, which takes seconds, and remembers the
result by the model's path. So each package is compiled once into the user's cache folder and loaded from there by
every process. An entry is named by what it depends on: the package's content, the system and coremltools.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from lvm_runtime.artifact.files import describe
from lvm_runtime.errors import WriteFailed
from lvm_runtime.system import atomic
from lvm_runtime.system.cache import cache_folder

COMPILED = "model.mlmodelc"
_NOTE = "entry.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """One compiled model: its folder, size in bytes, the package it was made from, and when."""

    path: Path
    bytes: int
    source: str
    created: str


def folder() -> Path | None:
    """Return the folder that holds the compiled models; None for a user without a home."""
    root = cache_folder()
    return root and root / "coreml"


def compiled_model(package: Path, compile: Callable[[Path, Path], None], *, versions: str) -> Path:
    """Return the compiled model of `package`, made by `compile(package, destination)` if it is not there yet.

    Processes that ask at the same time take turns, and one of them compiles. A changed package or other `versions`
    (of the system, say) make another entry. Where nothing can be kept (no home, a folder that is read-only, a full
    disk), the model is compiled for this process alone. WriteFailed where there is no room for that either.
    """
    content = describe(package.parent, package.name).sha256
    key = hashlib.sha256(f"{content} {versions}".encode()).hexdigest()[:24]
    if (root := folder()) is not None:
        if (root / key / COMPILED).is_dir():
            return root / key / COMPILED
        with contextlib.suppress(OSError):
            return _keep(root, key, package, compile, versions)
    try:
        until_exit = contextlib.ExitStack()
        scratch = until_exit.enter_context(atomic.scratch(Path(tempfile.gettempdir())))
        atexit.register(until_exit.close)
        compile(package, scratch / COMPILED)
    except OSError as error:
        raise WriteFailed(
            f"{package}: its compiled model can be written neither to the cache folder nor to a temporary one "
            f"({error.strerror or error}); set LVM_CACHE to a folder with room"
        ) from error
    return scratch / COMPILED


def _keep(root: Path, key: str, package: Path, compile: Callable[[Path, Path], None], versions: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    entry = root / key
    with atomic.locked(root):
        if not (entry / COMPILED).is_dir():
            with atomic.replacing(entry) as temporary:
                temporary.mkdir()
                compile(package, temporary / COMPILED)
                created = datetime.now(timezone.utc).isoformat(timespec="seconds")
                note = {"source": str(package.absolute()), "created": created, "versions": versions}
                (temporary / _NOTE).write_text(json.dumps(note))
    return entry / COMPILED


def list_entries() -> list[Entry]:
    """Return what the cache holds, the oldest first."""
    entries = []
    root = folder()
    for note in sorted(root.glob(f"*/{_NOTE}")) if root else ():
        try:
            body = json.loads(note.read_bytes())
            source, created = str(body["source"]), str(body["created"])
        except (OSError, ValueError, KeyError, TypeError):
            source, created = "its note cannot be read", ""
        size = sum(file.stat().st_size for file in note.parent.rglob("*") if file.is_file())
        entries.append(Entry(note.parent, size, source, created))
    return sorted(entries, key=lambda entry: entry.created)


def clear() -> list[Entry]:
    """Remove every compiled model and return what was removed. One in use goes on working until it is closed."""
    entries = list_entries()
    root = folder()
    if root and root.is_dir():
        with atomic.locked(root):
            for entry in entries:
                atomic.remove(entry.path)
    return entries
