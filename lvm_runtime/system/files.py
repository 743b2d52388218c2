"""Reading and writing files by position where the system has calls for it, and by seeking where it has none."""

from __future__ import annotations

import errno
import os
import threading

_SEEKING = threading.Lock()


def write_at(file: int, data: memoryview, offset: int) -> None:
    """Write all of `data` (bytes) at `offset` of an open file; threads may write different parts at the same time."""
    while len(data):
        if hasattr(os, "pwrite"):
            written = os.pwrite(file, data, offset)
        else:
            with _SEEKING:
                os.lseek(file, offset, os.SEEK_SET)
                written = os.write(file, data)
        data, offset = data[written:], offset + written


def claim(file: int, size: int) -> None:
    """Give an open file its size, and its space on the disk where the file system can promise that.

    Raises OSError where the disk has no space.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
    os.ftruncate(file, size)
