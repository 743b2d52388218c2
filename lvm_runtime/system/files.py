"""What a file is, calls on open ones that systems have in different ways, or not at all, and the hash of one."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from io import BufferedReader

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFLNK: "a link", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
_SEEKING = threading.Lock()


def kind_of(mode: int) -> str:
    """Return what has the `mode` of a status that is not a plain file's: a folder, a link, a pipe, a device, …"""
    return _KINDS.get(stat.S_IFMT(mode), "a device")


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


def sha256_of(file: BufferedReader) -> str:
    """Return the SHA-256, in hexadecimal, of what an open file holds from its position on; memory stays at 1 MiB."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(1 << 20))
    while count := file.readinto(buffer):
        digest.update(buffer[:count])
    return digest.hexdigest()


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
