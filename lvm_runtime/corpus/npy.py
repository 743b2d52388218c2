"""Arrays where they lie in a file, as `.npy` files and the members of `.npz` files hold them.

n rows of an array.
"""

from __future__ import annotations

import math
import os
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.errors import InvalidInput, LvmError, one_line
from lvm_runtime.system.files import claim, kind_of


@dataclass(frozen=True, slots=True)
class NpyFile:
    """An array in a file, by the place of its first byte."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @classmethod
    def open(cls, path: Path) -> NpyFile:
        """Read the header of a `.npy` file; InvalidInput if `path` is no whole one of values in C order."""
        with open_regular(path) as file:
            array = cls.at(path, file)
        if array.dtype.hasobject:  # mapped, its bytes would be taken for addresses of objects
            raise InvalidInput(f"{path}: has dtype {array.dtype}, expected numbers or strings; objects are not read")
        array.check_size(path.stat().st_size)
        return array

    @classmethod
    def at(cls, path: Path, file: Any, member: str = "") -> NpyFile:
        """Read the header where `file` stands, which is `path` or its `member`. Raises InvalidInput."""
        where = f"{path}: {member}" if member else f"{path}:"
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(file)
        except OSError as error:
            raise InvalidInput(f"{where} cannot be read ({error.strerror or error})") from error
        except Exception as error:  # a damaged header makes numpy's parser raise whatever it meets
            raise InvalidInput(f"{where} not a .npy file ({one_line(error, 200)})") from error
        if fortran and len(shape) > 1:
            raise InvalidInput(f"{where} Fortran order, expected C order; save numpy.ascontiguousarray of it")
        if any(size < 0 for size in shape):
            raise InvalidInput(f"{where} not a .npy file (shape {list(shape)})")
        return cls(path, file.tell(), shape, dtype)

    @property
    def nbytes(self) -> int:
        """How many bytes the array takes."""
        return self.dtype.itemsize * math.prod(self.shape)

    def check_size(self, size: int) -> None:
        """Raise InvalidInput if a file of `size` bytes ends before the array does, or goes on after it."""
        whole = self.offset + self.nbytes
        if size != whole:
            problem = "the file is truncated" if size < whole else "what follows the array would not be read"
            raise InvalidInput(f"{self.path}: {size} bytes, expected {whole}; {problem}")

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows start to stop in memory."""
        row = math.prod(self.shape[1:])
        place = self.offset + start * row * self.dtype.itemsize
        flat = np.fromfile(self.path, self.dtype, count=(stop - start) * row, offset=place)
        return flat.reshape(stop - start, *self.shape[1:])

    def map(self) -> NDArray[Any]:
        """Return the array as a mapping of its file."""
        with open_regular(self.path) as file:
            return map_array(file, self.offset, self.shape, self.dtype)


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading; InvalidInput, with the reason in a few words, if it is no file or cannot be read."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise InvalidInput(f"{path}: is {kind_of(mode)}, expected a file")
        return path.open("rb")
    except InvalidInput:
        raise
    except FileNotFoundError as error:
        raise InvalidInput(f"{path}: no such file") from error
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # a NUL in the name
        raise InvalidInput(f"{str(path)!r}: no name of a file ({error})") from error


def state_of(file: Path | int) -> tuple[int, ...]:
    """Return what tells a file, by its name or open, from any other and from itself after a change."""
    found = os.stat(file)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def require_same(path: Path, found: tuple[int, ...], before: tuple[int, ...]) -> None:
    """Raise InvalidInput if `path` is in another state than `before`, as `state_of` says it."""
    if found != before:
        raise InvalidInput(f"{path}: was changed, or replaced by another file, since it was opened; open it again")


def map_array(file: BinaryIO, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the array at `offset` of an open file as a read-only mapping, which outlives the open file."""
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.asarray(np.memmap(file, dtype, "r", offset, shape))


def unpack(
    fill: Callable[[BinaryIO], object],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    source: Path,
    scratch: Path | None,
) -> NDArray[Any]:
    """Return the array whose bytes `fill` writes, mapped from a file without a name in the folder `scratch`.

    A nameless file is gone with its mapping, even of a process that is killed. Without `scratch` it is where the system
    keeps temporary files. Raises LvmError, which names the `source`, where the disk has no space.
    """
    folder, size = scratch or Path(tempfile.gettempdir()), dtype.itemsize * math.prod(shape)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            claim(file.fileno(), size)
            fill(file)
            file.flush()
            return map_array(file, 0, shape, dtype)
    except OSError as error:
        needs = f"unpacking it needs {size / 1e6:,.1f} MB in {folder}"
        raise LvmError(f"{source}: {needs}: {error.strerror or error}") from error


def write_header(file: Any, shape: tuple[int, ...]) -> None:
    """Write the header of a float32 `.npy` of `shape`."""
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
