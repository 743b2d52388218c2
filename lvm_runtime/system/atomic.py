"""Files and folders that are either the old one or the new one, never half of one.

Everything is written under a temporary name beside its destination, flushed to the disk and renamed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lvm_runtime.system.exchange import exchange

_PREFIX = ".tmp-"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Flush a file, or a folder with everything below it, to the disk."""
    if path.is_dir():
        for child in path.iterdir():
            sync_tree(child)
    _sync(path)


def remove(path: Path) -> None:
    """Remove a file or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace the file `path` with `data` in one step."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what the body makes there, file or folder, then takes its place.

    If the body raises, or is interrupted, `path` stays as it was and the temporary is removed. The old and the new
    change places in one step. A disk that cannot do that with folders has none at `path` between two renames.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=path.parent))
    temporary = holder / path.name
    try:
        yield temporary
        sync_tree(temporary)
        if not (path.is_dir() and exchange(temporary, path)):
            if path.is_dir():
                os.rename(path, holder / "replaced")
            os.replace(temporary, path)
        _sync(path.parent)
    finally:
        remove(holder)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold an advisory lock on a folder, so that two processes that add to it take turns."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
