"""Huge pages (2 MB) for the weights that a library has loaded, on Linux.

A core that reads weights from beyond its caches does so up to twice as fast from huge pages, and finds them in the same
time wherever they lie. Libraries take their memory in pages of 4 KB, unless the system is set to huge pages for
everybody or the process was started with `GLIBC_TUNABLES=glibc.malloc.hugetlb=1`.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

_SIZE = 2 << 20
_COLLAPSE = 25  # MADV_COLLAPSE: Linux 6.1 or newer; it moves what lies there, at once
_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_MAPS = Path("/proc/self/maps")

Range = tuple[int, int]


@contextmanager
def huge_pages() -> Iterator[None]:
    """Move to huge pages what the process allocates inside and still holds at the end.

    It changes no value and is only a hint: where the system has no huge pages, or an older kernel, nothing happens.
    """
    if not _allowed():
        yield
        return
    before = _allocated()
    yield
    for start, stop in _without(_allocated(), before):
        first, last = -(-start // _SIZE) * _SIZE, stop // _SIZE * _SIZE
        if first < last:
            _madvise()(first, last - first, _COLLAPSE)


@cache
def _allowed() -> bool:
    """Say whether the machine's owner lets processes ask for huge pages of this size."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        return "[never]" not in _ENABLED.read_text() and _MAPS.exists()
    except OSError:
        return False


@cache
def _madvise() -> ctypes._FuncPointer:  # type: ignore[name-defined]
    function = ctypes.CDLL(None).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function


def _allocated() -> list[Range]:
    """Return the addresses of the process's own memory: neither files nor stacks that the system names."""
    found = []
    for line in _MAPS.read_text().splitlines():
        addresses, allowed, _, _, inode, *name = line.split(maxsplit=5)
        if allowed.startswith("rw") and inode == "0" and (not name or name == ["[heap]"]):
            start, _, stop = addresses.partition("-")
            found.append((int(start, 16), int(stop, 16)))
    return found


def _without(ranges: list[Range], known: list[Range]) -> Iterator[Range]:
    """Yield the parts of `ranges` that are in none of `known`; both are sorted and do not overlap."""
    unchanged = set(known)  # nearly all: a process may have thousands
    for start, stop in ranges:
        if (start, stop) in unchanged:
            continue
        for low, high in known:
            if low < stop and start < high:
                if start < low:
                    yield start, low
                start = max(start, high)
        if start < stop:
            yield start, stop
