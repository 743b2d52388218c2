"""Files as an index remembers them, to notice that one is no longer what was indexed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lvm_runtime.corpus.npy import open_regular
from lvm_runtime.system.files import sha256_of


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Name, size and SHA-256 of a file, and what the system said of it then: times in ns and the inode.

    The system sets the time of the last change, and nobody else can. Where all of that is the same, so is the file, and
    its bytes need not be read.
    """

    name: str
    bytes: int
    sha256: str
    seen: list[int]

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        """Read the file and return its record. Raises InvalidInput if it cannot be read."""
        size, *seen = _state(path)
        return cls(path.name, size, _sha256(path), seen)

    def matches(self, path: Path) -> bool:
        """Say whether `path` still is the file; its bytes are read only where the system says that it was changed."""
        size, *seen = _state(path)
        return size == self.bytes and (seen == self.seen or _sha256(path) == self.sha256)


def _state(path: Path) -> tuple[int, int, int, int]:
    with open_regular(path) as file:
        found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _sha256(path: Path) -> str:
    with open_regular(path) as file:
        return sha256_of(file)
