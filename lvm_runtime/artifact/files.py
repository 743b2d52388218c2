"""Files of an artifact: opened only if they are plain files inside it, measured, and hashed.

A link could lead out of the artifact, and a pipe or a device never ends, so that each is refused before it is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from lvm_runtime.artifact.limits import LARGEST_FILE, MOST_PACKAGE_FILES
from lvm_runtime.errors import ArtifactError
from lvm_runtime.system.atomic import TEMPORARY
from lvm_runtime.system.files import kind_of, sha256_of


@dataclass(frozen=True, slots=True)
class StoredFile:
    """Path relative to the artifact, size in bytes and SHA-256 of a file, or of a folder as one tree."""

    path: str
    bytes: int
    sha256: str


def open_plain(path: Path) -> BufferedReader:
    """Open a plain file for reading.

    Raises ArtifactError for a link, a folder, a pipe, a device, and for what is missing or cannot be read.
    """
    try:
        # without O_NONBLOCK, opening a pipe waits for a writer; Windows has neither flag
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        _require_plain(path, os.lstat(path).st_mode)
        descriptor = os.open(path, flags)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); expected a file of an artifact") from error
    try:
        _require_plain(path, os.fstat(descriptor).st_mode)  # it may have been exchanged in between
    except BaseException:
        os.close(descriptor)
        raise
    return open(descriptor, "rb")


def read_plain(path: Path, limit: int) -> bytes:
    """Return the bytes of a plain file; ArtifactError, before it is read, if it has more than `limit`."""
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise ArtifactError(f"{path}: {size:,} bytes, expected at most {limit:,}")
        return file.read(limit + 1)[:size]


def describe(folder: Path, relative: str) -> StoredFile:
    """Return size and hash of the file or folder at `relative` below `folder`.

    The hash of a folder is over the names and hashes of its files, and over the names of its empty folders. Raises
    ArtifactError for a link or anything else that is neither file nor folder.
    """
    files = dict(_measure(folder, relative))
    return StoredFile(relative, sum(files.values()), _digest(folder / relative, files))


def check(folder: Path, expected: StoredFile, manifest: str) -> None:
    """Compare a listed file or folder with its recorded size, and then with its hash; ArtifactError if it differs."""
    path, files = folder / expected.path, check_size(folder, expected, manifest)
    if (found := _digest(path, files)) != expected.sha256:
        raise ArtifactError(
            f"{path}: SHA-256 {found[:12]}…, expected {expected.sha256[:12]}…; the file was damaged or replaced"
        )


def check_size(folder: Path, expected: StoredFile, manifest: str) -> dict[str, int]:
    """Compare a listed file or folder with its recorded size; return the size of each file of it."""
    path = folder / expected.path
    if not os.path.lexists(path):
        raise ArtifactError(f"{path}: missing, though listed in {manifest}; export or train again")
    files = dict(_measure(folder, expected.path))
    if (size := sum(files.values())) != expected.bytes:
        raise ArtifactError(f"{path}: {size} bytes, expected {expected.bytes}; the file is truncated or replaced")
    return files


def check_strays(folder: Path, listed: Iterable[str], manifest: str) -> None:
    """Raise ArtifactError if `folder` holds a file or a link that is not one of the `listed` paths.

    Finder's notes (`.DS_Store`, `._*`) and the folders of writers (`.tmp-*`) do not count, nor does a file whose
    writer is at work, or was stopped, before the manifest lists it: its folder `.tmp-NAME` is still there.
    """
    known = {folder / path for path in listed} | {folder / manifest}
    folders = [folder]
    while folders:
        parent = folders.pop()
        try:
            present = {entry.name: entry for entry in _entries(parent)}
        except ArtifactError:
            if os.path.lexists(parent):
                raise
            continue  # a writer took it away since it was seen, and what was in it
        for name, entry in present.items():
            path = Path(entry.path)
            if path in known or is_finders(name) or name.startswith(TEMPORARY) or TEMPORARY + name in present:
                continue
            if not entry.is_dir(follow_symlinks=False):
                raise ArtifactError(
                    f"{path}: not listed in {manifest}; an artifact holds listed files only: move it out of the folder"
                )
            folders.append(path)


def _measure(folder: Path, relative: str) -> Iterator[tuple[str, int]]:
    """Yield name and size of each file below `relative`; "" for itself, and "NAME/" for an empty folder."""
    path = folder
    for part in Path(relative).parts[:-1]:
        path = path / part
        if not stat.S_ISDIR(_status(path).st_mode):
            raise ArtifactError(f"{path}: expected a folder of the artifact, and it is something else, or a link")
    path = folder / relative
    top = _status(path)
    total = 0
    for name, status in _walk(path) if stat.S_ISDIR(top.st_mode) else [("", top)]:
        if not name.endswith("/"):
            _require_plain(path / name, status.st_mode)
            total += status.st_size
        if total > LARGEST_FILE:
            raise ArtifactError(f"{path}: more than {LARGEST_FILE:,} bytes, which no artifact of this project has")
        yield name, status.st_size if not name.endswith("/") else 0


def _walk(path: Path) -> list[tuple[str, os.stat_result]]:
    """Return name and status of what is in a package, sorted by path, the empty folders with a slash at the end."""
    found: list[tuple[Path, os.stat_result]] = []
    folders = [path]
    while folders:
        parent = folders.pop()
        kept = [entry for entry in _entries(parent) if not is_finders(entry.name)]
        folders += [Path(entry.path) for entry in kept if entry.is_dir(follow_symlinks=False)]
        found += [(Path(e.path), _status(Path(e.path))) for e in kept if not e.is_dir(follow_symlinks=False)]
        if not kept and parent != path:
            found.append((parent, _status(parent)))
        if len(found) + len(folders) > MOST_PACKAGE_FILES:
            raise ArtifactError(f"{path}: more than {MOST_PACKAGE_FILES} files, which no package of this project has")
    return [
        (p.relative_to(path).as_posix() + "/" * stat.S_ISDIR(status.st_mode), status) for p, status in sorted(found)
    ]


def _digest(path: Path, files: dict[str, int]) -> str:
    if "" in files:
        return _sha256(path)
    tree = hashlib.sha256()
    for name in files:
        tree.update(f"{name}\0{'' if name.endswith('/') else _sha256(path / name)}\n".encode(errors="surrogateescape"))
    return tree.hexdigest()


def _sha256(path: Path) -> str:
    with open_plain(path) as file:
        return sha256_of(file)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with _reading(folder), os.scandir(folder) as entries:
        return list(entries)


def _status(path: Path) -> os.stat_result:
    with _reading(path):
        return os.lstat(path)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); expected a file of an artifact") from error


def _require_plain(path: Path, mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    advice = "; copy the artifact with its links resolved: cp -RL" if stat.S_ISLNK(mode) else ""
    raise ArtifactError(f"{path}: is {kind_of(mode)}, expected a plain file{advice}")


def is_finders(name: str) -> bool:
    """Say whether a file is one of those that Finder leaves in folders, which no artifact lists."""
    return name == ".DS_Store" or name.startswith("._")
