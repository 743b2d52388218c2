"""How fast each form of an artifact was on this machine, kept in the user's cache folder.

One file per artifact, machine, library versions and number of threads: a new library or chip is measured anew.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.system import atomic, machine
from lvm_runtime.system.cache import cache_folder

BATCHES = (1, 8, 128)
"""Batch sizes that stand for single queries, small batches and large ones."""

_SCHEMA = 3

Identity = tuple[str, str, str, str]
"""Backend, device, precision and file: what tells a form from the others of its artifact."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One form on this machine: median seconds per run at each of BATCHES, or the problem that it has here.

    `drift` is the largest over the probes (1 − cosine). `sample` holds some components of its answers to the probes,
    by which forms that agree with each other are told from forms that do not.
    """

    backend: str
    device: str
    precision: str
    file: str
    drift: float = 0.0
    seconds: tuple[float, ...] = ()
    sample: tuple[float, ...] = ()
    problem: str | None = None

    @property
    def identity(self) -> Identity:
        """What tells it from the other forms; equal to its candidate's."""
        return self.backend, self.device, self.precision, self.file

    def agrees_with(self, other: Measurement, limit: float) -> bool:
        """Say whether both gave the same answers to the probes, up to `limit` in one component."""
        return all(abs(a - b) <= limit for a, b in zip(self.sample, other.sample, strict=True))


def load(artifact: Artifact, threads: int) -> list[Measurement]:
    """Return what was measured of `artifact` on this machine; nothing, if nothing was."""
    if not _folder(artifact).is_dir():  # spares a first start the search for library versions
        return []
    try:
        body = json.loads(_file(artifact, threads).read_bytes())
        return [Measurement(**_tuples(item)) for item in body["measurements"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # a cache: what cannot be read is measured again


def save(artifact: Artifact, threads: int, measurements: list[Measurement]) -> Path:
    """Add `measurements` to what is known of `artifact` here, in place of older ones of the same forms."""
    new = {m.identity: m for m in measurements}
    kept = [m for m in load(artifact, threads) if m.identity not in new]
    path = _file(artifact, threads)
    body = {
        "machine": machine.identity(),
        "threads": threads,
        "measurements": [asdict(m) for m in (*kept, *new.values())],
    }
    atomic.write_bytes(path, json.dumps(body, indent=1).encode())
    return path


def _folder(artifact: Artifact) -> Path:
    return cache_folder() / "measurements" / hashlib.sha256(artifact.manifest.to_json()).hexdigest()[:24]


def _file(artifact: Artifact, threads: int) -> Path:
    key = json.dumps([_SCHEMA, machine.identity(), threads], sort_keys=True).encode()
    return _folder(artifact) / f"{hashlib.sha256(key).hexdigest()[:24]}.json"


def _tuples(item: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in item.items()}
