"""How fast each form of an artifact was on this machine, kept in the user's cache folder.

One file per artifact, machine, library versions and number of threads: a new library or chip is measured anew, and so
is the same chip with other instructions, which a virtual machine may hide, or which are chosen for the native engine,
and so is a machine some of whose GPUs are hidden.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends.native import PATH_VARIABLE
from lvm_runtime.backends.registry import BACKENDS, backend_class
from lvm_runtime.errors import counted
from lvm_runtime.system import atomic, machine
from lvm_runtime.system.cache import cache_folder

BATCHES = (1, 8, 128)
"""Batch sizes that stand for single queries, small batches and large ones."""

_SCHEMA = 3
_SETTINGS = (PATH_VARIABLE, "CUDA_VISIBLE_DEVICES")  # variables that decide what a form runs on


Identity = tuple[str, str, str, str]
"""Backend, device, precision and file: what tells a form from the others of its artifact."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One form on this machine: median seconds per run at each of BATCHES, or the problem that it has here.

    `drift` is the largest over the probes (1 − cosine).
    """

    backend: str
    device: str
    precision: str
    file: str
    drift: float = 0.0
    seconds: tuple[float, ...] = ()
    problem: str | None = None

    @property
    def identity(self) -> Identity:
        """What tells it from the other forms; equal to its candidate's."""
        return self.backend, self.device, self.precision, self.file


def load(artifact: Artifact, threads: int) -> list[Measurement]:
    """Return what was measured of `artifact` on this machine; nothing, if nothing was."""
    folder = _folder(artifact)
    try:
        if folder is None or not folder.is_dir():  # spares a first start the search for library versions
            return []
        body = json.loads((folder / _name(threads)).read_bytes())
        return [_read(item) for item in body["measurements"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []  # a cache: what cannot be read is measured again


def save(artifact: Artifact, threads: int, measurements: list[Measurement]) -> Path | None:
    """Add `measurements` to what is known of `artifact` here, in place of older ones of the same forms.

    Returns the file, or None where none can be kept: no home, a folder that is read-only, a full disk.
    """
    folder = _folder(artifact)
    if folder is None:
        return None
    new = {m.identity: m for m in measurements}
    kept = [m for m in load(artifact, threads) if m.identity not in new]
    body = {"machine": here(), "threads": threads, "measurements": [asdict(m) for m in (*kept, *new.values())]}
    path = folder / _name(threads)
    try:
        atomic.write_bytes(path, json.dumps(body, indent=1).encode())
    except OSError:
        return None
    return path


def here() -> dict[str, str]:
    """Return what a measurement depends on besides the artifact: the machine, versions and settings."""
    versions = {"numpy": np.__version__}
    for cls in map(backend_class, BACKENDS):
        if version := cls.version():
            versions[cls.framework] = version
    settings = {name: os.environ[name] for name in _SETTINGS if name in os.environ}
    return machine.identity() | versions | settings


def folder() -> Path | None:
    """Return the folder that holds the measurements, with one folder for each artifact; None where none is kept."""
    root = cache_folder()
    return root and root / "measurements"


def list_kept() -> list[tuple[Path, str]]:
    """Return each kept file and a line on it: threads, number of forms, and the chip that they were measured on."""
    kept = []
    root = folder()
    for file in sorted(root.glob("*/*.json")) if root else ():
        try:
            body = json.loads(file.read_bytes())
            form, thread = counted(len(body["measurements"]), "form"), counted(body["threads"], "thread")
            line = f"{form}, {thread}, {body['machine']['processor']}"
        except (OSError, ValueError, KeyError, TypeError):
            line = "cannot be read, and will be measured again"
        kept.append((file, line))
    return kept


def clear() -> list[Path]:
    """Remove every measurement and return the files that were removed."""
    removed = [file for file, _ in list_kept()]
    if root := folder():
        atomic.remove(root)
    return removed


def _folder(artifact: Artifact) -> Path | None:
    root = folder()
    return root and root / hashlib.sha256(artifact.manifest.to_json()).hexdigest()[:24]


def _name(threads: int) -> str:
    key = json.dumps([_SCHEMA, here(), threads], sort_keys=True).encode()
    return f"{hashlib.sha256(key).hexdigest()[:24]}.json"


def _read(item: dict[str, Any]) -> Measurement:
    """Return a measurement as `save` wrote it; ValueError or TypeError for what it would not have written."""
    values: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in item.items()}
    found = Measurement(**values)
    said = found.problem is None or isinstance(found.problem, str)
    timed = len(found.seconds) == len(BATCHES) and all(0 < seconds < math.inf for seconds in found.seconds)
    names = all(isinstance(name, str) for name in found.identity)
    if not (names and said and 0 <= found.drift < math.inf and (timed or found.problem)):
        raise ValueError(f"{found} was not measured")
    return found
