"""Where a bulk run writes: its output and the files beside it, checked before anything is opened, and locked.

`OUTPUT.part` and `OUTPUT.progress` are what an interrupted run leaves, `OUTPUT.bad.csv` lists rows that were set aside,
and `OUTPUT.lock` is there while a run is.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import Timeout

from lvm_runtime.corpus.formats import SUFFIXES
from lvm_runtime.errors import InvalidInput, LvmError
from lvm_runtime.system.atomic import file_lock, writing
from lvm_runtime.system.files import kind_of


def keep_out(path: Path, artifact: Path) -> None:
    """Raise InvalidInput for an output `path` that is the folder of an artifact or lies in it."""
    folder, place = os.path.realpath(artifact), os.path.realpath(path)
    if place == folder or place.startswith(os.path.join(folder, "")):
        raise InvalidInput(f"{path}: lies in the artifact {folder}, which it would damage; choose another folder")


class Destination:
    """The output `path` and the files beside it. InvalidInput for a name that no prediction can be written to."""

    def __init__(self, path: Path) -> None:
        if path.suffix not in SUFFIXES:
            raise InvalidInput(f"{path}: unknown kind of file {path.suffix!r}; expected {', '.join(SUFFIXES)}")
        self.path = path
        self.part, self.progress, self.sidecar, self.lock = (
            path.with_name(path.name + suffix) for suffix in (".part", ".progress", ".bad.csv", ".lock")
        )

    def check(self, inputs: Sequence[Path], *, overwrite: bool) -> None:
        """Raise InvalidInput unless each file is a plain one or none, none is an input, and the output may be written.

        A link would be replaced or followed, a pipe would wait for ever, and an input would be gone.
        """
        for path in (self.path, self.part, self.progress, self.sidecar, self.lock):
            found = _status(path)
            if found is None:
                continue
            if not stat.S_ISREG(found.st_mode):
                raise InvalidInput(
                    f"{path}: is {kind_of(found.st_mode)}, expected a file or nothing; choose another name"
                )
            for source in inputs:
                if source.exists() and os.path.samestat(found, source.stat()):
                    raise InvalidInput(f"{path}: is also the input {source}; choose another name for the output")
        if self.path.exists() and not overwrite:
            raise InvalidInput(f"{self.path} exists; choose another name, or give --overwrite")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs from this output while the body runs; LvmError if there is one."""
        lock = file_lock(self.lock, timeout=0)
        with writing(self.lock):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire()
            except Timeout as error:
                raise LvmError(f"{self.path}: another run is writing it; wait for it or choose another name") from error
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows keeps a file that is open
                self.lock.unlink()
            lock.release()

    def discard(self) -> None:
        """Drop what an interrupted run left."""
        with writing(self.part):
            self.part.unlink(missing_ok=True)
            self.progress.unlink(missing_ok=True)


def _status(path: Path) -> os.stat_result | None:
    """Return the status of `path`, of a link itself; None if there is nothing. InvalidInput for an impossible name."""
    try:
        return path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be written ({error.strerror})") from error
    except ValueError as error:  # a NUL
        raise InvalidInput(f"{str(path)!r}: no name of a file ({error})") from error
