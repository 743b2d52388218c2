"""The memory that this process has in use."""

from __future__ import annotations

import ctypes
import gc
import os
import re
from pathlib import Path

import psutil

MEGABYTE = 1 << 20


class _Allocated(ctypes.Structure):
    """What glibc's mallinfo2 returns; the fifth field counts bytes that are mapped, the eighth the others in use."""

    _fields_ = [(f"field_{i}", ctypes.c_size_t) for i in range(10)]


def in_use() -> float:
    """Return the MB that are allocated; where the system cannot say, those that are resident."""
    gc.collect()
    ask = getattr(ctypes.CDLL(None), "mallinfo2", None) if os.name == "posix" else None
    if ask is None:
        return psutil.Process().memory_info().rss / MEGABYTE
    ask.restype = _Allocated
    found = ask()
    return (found.field_4 + found.field_7) / MEGABYTE


def in_huge_pages() -> float:
    """Return how many MB of this process lie in huge pages."""
    found = re.search(r"AnonHugePages:\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
    assert found
    return int(found[1]) / 1024
