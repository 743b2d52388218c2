"""Files and folders that are either the old one or the new one, never half of one.

Everything is written under a temporary name beside its destination, flushed to the disk and renamed. The temporary
folders of runs that were killed are removed by the next run that writes to the same place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lvm_runtime.errors import WriteFailed
from lvm_runtime.system.folder_exchange import exchange
from lvm_runtime.system.forks import ahead_of

TEMPORARY = ".tmp-"
"""How the names begin under which writers work."""

_LOCK = ".in-use"
_REPLACED = ".replaced"
_swept: set[Path] = set()


def sync(path: Path) -> None:
    """Flush a file, or the list of a folder; Windows flushes only what is open for writing, and no folders."""
    posix = hasattr(os, "O_DIRECTORY")
    folder = path.is_dir()
    if folder and not posix:
        return
    descriptor = os.open(path, os.O_RDONLY if posix else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not folder or error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some network disks flush no folders
            raise
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Flush a file, or a folder with everything below it, to the disk."""
    if path.is_dir():
        for child in path.iterdir():
            sync_tree(child)
    sync(path)


def move(temporary: Path, path: Path) -> None:
    """Flush a file, or a folder, and put it at `path`, where a file may be; flush that folder too."""
    sync_tree(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def share_tree(path: Path) -> None:
    """Give a file, or a folder with everything below it, the permissions that the umask leaves to new ones.

    Libraries that write through `tempfile` leave files that only their owner can read.
    """
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=path.parent) as folder:
        probe = Path(folder) / "probe"
        probe.touch(0o666)  # the umask cannot be read without setting it, which other threads would notice
        file_mode = stat.S_IMODE(probe.stat().st_mode)
    folder_mode = file_mode | (file_mode & 0o444) >> 2  # whoever may read a folder may enter it
    for entry in (path, *path.rglob("*")):
        if not entry.is_symlink():
            entry.chmod(stat.S_IMODE(entry.stat().st_mode) | (folder_mode if entry.is_dir() else file_mode))


def remove(path: Path) -> None:
    """Remove a file or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace the file `path` with `data` in one step; WriteFailed if that cannot be done."""
    with replacing(path) as temporary, writing(path):
        temporary.write_bytes(data)


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put `files`, by name, into `folder` once all of them are on the disk; WriteFailed if that cannot be done.

    Each takes its place in one step. Only a kill between two of these steps leaves old ones among the new.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with scratch(folder) as holder, writing(folder):
        for name, data in files.items():
            (holder / name).write_bytes(data)
        sync_tree(holder)
        for name in files:
            os.replace(holder / name, folder / name)
        sync(folder)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the body into a WriteFailed that names `path`."""
    if "\0" in str(path):
        raise WriteFailed(f"{path}: a name cannot hold a NUL character")
    try:
        yield
    except WriteFailed:
        raise
    except OSError as error:
        raise WriteFailed(f"{path}: cannot be written ({error.strerror or error})") from error


def require_writable(path: Path, *, folder: bool = False) -> None:
    """Raise WriteFailed unless a file, or a folder, can be put at `path`; for use before long work."""
    with writing(path):
        path = _followed(path)
        if folder and os.path.lexists(path) and not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"a {'file' if path.exists() else 'link to nothing'} is there")
        if not folder and path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder is there")
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch(path.parent) as holder:
            (holder / path.name).touch()  # a name that is too long shows here


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what the body makes there, file or folder, then takes its place.

    Of a link to a folder, it takes the place of that folder. If the body raises, or is interrupted, `path` stays as it
    was and the temporary is removed. The old and the new change places in one step. A disk that cannot do that with
    folders has none at `path` between two renames.
    Raises WriteFailed where the place cannot be written to.
    """
    with writing(path):
        path = _followed(path)
        path.parent.mkdir(parents=True, exist_ok=True)
    with scratch(path.parent) as holder:
        temporary = holder / path.name
        yield temporary
        with writing(path):
            sync_tree(temporary)
            if path.is_dir() and not temporary.is_dir():
                raise IsADirectoryError(errno.EISDIR, "a folder is there")
            if not (path.is_dir() and exchange(temporary, path)):
                if path.is_dir():
                    os.rename(path, holder / _REPLACED)
                os.replace(temporary, path)
            sync(path.parent)


def _followed(path: Path) -> Path:
    """Return the folder that `path` leads to if it is a link to one, and `path` itself otherwise."""
    return Path(os.path.realpath(path)) if path.is_symlink() and path.is_dir() else path


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Yield a new temporary folder inside `folder`, removed afterwards, and by the next run if this one is killed.

    A lock inside it, which the system drops with the process, tells a folder in use from one that was left. It is the
    first file to come and the last to go, so that no kill leaves a folder with other files and without it.
    """
    with writing(folder):
        if folder.absolute() not in _swept:
            _swept.add(folder.absolute())
            _remove_abandoned(folder)
        holder = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=folder))
    lock = file_lock(holder / _LOCK)
    try:
        with writing(folder):
            lock.acquire()
        try:
            yield holder
        finally:
            _empty(holder)
            lock.release()
    finally:
        _remove_emptied(holder)


@contextlib.contextmanager
def own_folder(holder: Path) -> Iterator[None]:
    """Have the folder `holder` for this writer alone, without what a killed one left in it; it is gone afterwards.

    Raises WriteFailed while another writer has it.
    """
    from filelock import Timeout

    lock = file_lock(holder / _LOCK, timeout=0)
    with writing(holder):
        holder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as error:
            raise WriteFailed(f"{holder}: another writer is at work there; try again when it has ended") from error
    try:
        _empty(holder)
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):  # gone with the folder around it, which another one replaced
            _empty(holder)
        _remove_emptied(holder)  # before the lock, after which it may be the next writer's
        lock.release()
        with contextlib.suppress(OSError):
            holder.rmdir()  # on Windows, where the lock's file goes with the lock


def file_lock(path: Path, *, timeout: float = -1) -> Any:
    """Return a `filelock.FileLock`, not yet acquired. Importing filelock takes 15 ms, and few processes write."""
    return ahead_of("filelock").FileLock(path, timeout=timeout)


def _empty(holder: Path) -> None:
    for entry in holder.iterdir():
        if entry.name != _LOCK:
            remove(entry)


def _remove_emptied(holder: Path) -> None:
    with contextlib.suppress(OSError):  # another run may be removing it too
        (holder / _LOCK).unlink(missing_ok=True)
        holder.rmdir()


def _remove_abandoned(folder: Path) -> None:
    """Remove the temporary folders of killed runs from `folder`."""
    from filelock import Timeout

    everybodys = folder.stat().st_mode & stat.S_ISVTX  # as /tmp is, where a lock may be another user's trap
    for holder in folder.glob(f"{TEMPORARY}*"):
        if not (holder / _LOCK).exists() or (everybodys and holder.lstat().st_uid != os.geteuid()):
            continue  # somebody else's, or made a moment ago
        with contextlib.suppress(Timeout, OSError):  # in use, or just removed by another run
            with file_lock(holder / _LOCK, timeout=0):
                _restore(holder, folder)
                _empty(holder)
            _remove_emptied(holder)


def _restore(holder: Path, folder: Path) -> None:
    """Put a whole new folder into its place if its writer was killed after it had taken the old one away."""
    if (holder / _REPLACED).exists():
        for entry in holder.iterdir():
            if entry.name not in (_LOCK, _REPLACED) and not (folder / entry.name).exists():
                os.replace(entry, folder / entry.name)


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold an advisory lock on a folder, so that processes and threads that add to it take turns.

    The lock is a file beside the folder, `.NAME.lock`, and beside what a link leads to. Raises WriteFailed where it
    cannot be made and, if this is not to `wait`, while another writer holds it.
    """
    from filelock import Timeout

    place = Path(os.path.realpath(folder))
    lock = file_lock(place.with_name(f".{place.name}.lock"), timeout=-1 if wait else 0)
    with writing(folder):
        try:
            lock.acquire()
        except Timeout as error:
            raise WriteFailed(f"{folder}: another run is at work there; wait for it or choose another name") from error
    try:
        yield
    finally:
        lock.release()
