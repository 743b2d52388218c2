"""A disk that loses what was not flushed, as far as calls can show it: a killed process loses nothing of the kind.

What takes a place must have been flushed before, and so must every change of a folder that comes before it: after a
power cut a manifest could name a file that is not there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lvm_runtime.system import atomic


class Flushes:
    """Watch flushes, renames, new folders and removals below `root`; AssertionError for one that comes too early.

    Renames may follow each other in one folder, and a new folder may be filled; all else waits until the folders that
    changed are flushed.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.moved: list[str] = []
        self._root = root
        self._flushed: dict[tuple[int, int], tuple[int, int]] = {}  # by device and inode: size and time
        self._made: set[Path] = set()  # folders with a new folder that is not flushed
        self._renamed: set[Path] = set()  # folders with a renamed file that is not flushed
        for owner, name, watch in (
            (os, "fsync", self._fsync),
            (os, "replace", self._rename),
            (os, "rename", self._rename),
            (atomic, "exchange", self._rename),
            (os, "mkdir", self._mkdir),
            (os, "unlink", self._unlink),
        ):
            self._patch(monkeypatch, owner, name, watch)

    def assert_settled(self, *moved: str) -> None:
        """Assert that these took their places, in this order, and that a power cut now would lose none of them."""
        assert self.moved == list(moved)
        assert self._made | self._renamed == set()

    def _patch(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, watch: Callable[..., Any]) -> None:
        call = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, **k: watch(call, *a, **k))

    def _fsync(self, call: Callable[..., Any], file: int) -> None:
        call(file)
        status = os.fstat(file)
        self._flushed[status.st_dev, status.st_ino] = status.st_size, status.st_mtime_ns
        for folders in (self._made, self._renamed):
            folders -= {folder for folder in folders if os.path.samestat(folder.stat(), status)}

    def _rename(self, call: Callable[..., Any], source: Any, target: Any) -> Any:
        source, target = Path(source), Path(target)
        if not self._watched(target):
            return call(source, target)
        for path in (source, *source.rglob("*")):
            status = path.stat()
            last = self._flushed.get((status.st_dev, status.st_ino))
            assert last == (status.st_size, status.st_mtime_ns), f"{target} took its place before {path} was flushed"
        early = self._made - {*target.parents[1:]} | self._renamed - {target.parent}
        assert not early, f"{target} took its place before the lists of {early} were flushed"
        done = call(source, target)
        self._renamed.add(target.parent)
        self.moved.append(target.name)
        return done

    def _mkdir(self, call: Callable[..., Any], path: Any, *mode: Any, **options: Any) -> None:
        call(path, *mode, **options)
        if self._watched(Path(path)):
            self._made.add(Path(path).parent)

    def _unlink(self, call: Callable[..., Any], path: Any, **options: Any) -> None:
        early = self._made | self._renamed
        if self._watched(Path(path)) and os.path.lexists(path):
            assert not early, f"{path} was removed before the lists of {early} were flushed"
        call(path, **options)

    def _watched(self, path: Path) -> bool:
        return path.is_relative_to(self._root) and not any(part.startswith(".") for part in path.parts)
