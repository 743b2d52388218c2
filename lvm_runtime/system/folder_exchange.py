"""Two folders that change places in one step, which Python's `os` has no call for."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # Linux, <linux/fs.h>
_RENAME_SWAP = 2  # macOS, <sys/stdio.h>


def exchange(a: Path, b: Path) -> bool:
    """Let the files or folders `a` and `b` of one disk change places; return whether the system could.

    Linux and macOS can on most disks. Nothing has changed where the answer is False.
    """
    libc = ctypes.CDLL(None)
    first, second = os.fsencode(a), os.fsencode(b)
    try:
        if sys.platform == "darwin":
            return bool(libc.renamex_np(first, second, _RENAME_SWAP) == 0)
        return bool(libc.renameat2(_AT_FDCWD, first, _AT_FDCWD, second, _RENAME_EXCHANGE) == 0)
    except AttributeError:  # another system, or a C library from before 2018
        return False
