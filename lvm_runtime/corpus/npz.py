"""The arrays of an `.npz` file: mapped in place where they are stored as they are, else unpacked by streaming."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.corpus.npy import NpyFile, map_array, open_regular, require_same, state_of, unpack
from lvm_runtime.errors import InvalidInput, LvmError

_BLOCK = 1 << 22
_LOCAL_HEADER = 30  # bytes of a member's own header, which ends with the lengths of its name and its extra field
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError, OSError)
"""What zipfile and its decompressors raise for damaged, encrypted or unknown contents."""


class NpzFile:
    """An open `.npz`. A context manager; InvalidInput if `path` is no whole one.

    Compressed arrays are unpacked to a nameless file in the folder `scratch`, or where the system keeps such files.
    """

    def __init__(self, path: Path, scratch: Path | None = None) -> None:
        self.path, self.scratch = path, scratch
        self._file = open_regular(path)
        try:
            self._archive = zipfile.ZipFile(self._file)
        except _DAMAGE as error:
            self._file.close()
            raise InvalidInput(f"{path}: not a whole .npz file ({error})") from error
        places = [part.header_offset for part in self._archive.infolist()]
        if places and min(places) > 0:
            self._file.close()
            raise InvalidInput(f"{path}: its first array is not at its beginning; expected one .npz, and not several")
        self.keys = [name.removesuffix(".npy") for name in self._archive.namelist()]

    def __enter__(self) -> NpzFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._archive.close()
        self._file.close()

    def header(self, key: str) -> NpyFile:
        """Return shape and dtype of the array `key` without reading it."""
        try:
            with self._archive.open(self._archive.infolist()[self.keys.index(key)]) as member:
                return NpyFile.at(self.path, member, key)
        except LvmError:
            raise
        except _DAMAGE as error:
            raise self._damaged(key, error) from error

    def array(self, key: str, *, trust_pickle: bool = False) -> NDArray[Any]:
        """Return the array `key`, mapped. InvalidInput for an object array, unless `trust_pickle` allows its code."""
        info = self._archive.infolist()[self.keys.index(key)]
        try:
            with self._archive.open(info) as member:
                array = NpyFile.at(self.path, member, key)
                if array.dtype.hasobject:
                    return self._objects(key, trust_pickle)
                size = info.file_size - array.offset
                if size != array.nbytes:
                    problem = "is truncated" if size < array.nbytes else "goes on after its array"
                    raise InvalidInput(f"{self.path}: {key} {problem}: {size} bytes, expected {array.nbytes}")
                if info.compress_type == zipfile.ZIP_STORED:
                    return self._in_place(info, array)
                blocks = self._blocks(member, key, array.nbytes)
                return unpack(lambda file: file.writelines(blocks), array.shape, array.dtype, self.path, self.scratch)
        except LvmError:
            raise
        except _DAMAGE as error:
            raise self._damaged(key, error) from error

    def later(self, *keys: str) -> Callable[[], list[NDArray[Any]]]:
        """Return what returns the arrays `keys` when they are asked for, after this file was closed.

        They are mapped now if they are stored as they are. Otherwise the file is opened again and has to be the same:
        InvalidInput if it is not.
        """
        members = [self._archive.infolist()[self.keys.index(key)] for key in keys]
        if all(member.compress_type == zipfile.ZIP_STORED for member in members):
            arrays = [self.array(key) for key in keys]
            return lambda: arrays
        path, scratch, before = self.path.absolute(), self.scratch, state_of(self._file.fileno())

        def read() -> list[NDArray[Any]]:
            with NpzFile(path, scratch) as again:
                require_same(path, state_of(again._file.fileno()), before)
                return [again.array(key) for key in keys]

        return read

    def _in_place(self, info: zipfile.ZipInfo, array: NpyFile) -> NDArray[Any]:
        self._file.seek(info.header_offset + _LOCAL_HEADER - 4)
        name, extra = struct.unpack("<HH", self._file.read(4))
        begin = info.header_offset + _LOCAL_HEADER + name + extra + array.offset
        return map_array(self._file, begin, array.shape, array.dtype)

    def _blocks(self, member: Any, key: str, size: int) -> Iterator[bytes]:
        try:
            while size:
                block = member.read(min(size, _BLOCK))
                if not block:
                    raise EOFError("the member ends early")
                size -= len(block)
                yield block
            member.read()  # to the end, where the checksum is compared
        except _DAMAGE as error:
            raise self._damaged(key, error) from error

    def _damaged(self, key: str, error: Exception) -> InvalidInput:
        return InvalidInput(f"{self.path}: {key} cannot be read ({error})")

    def _objects(self, key: str, trust_pickle: bool) -> NDArray[Any]:
        if not trust_pickle:
            raise InvalidInput(
                f"{self.path}: {key} is an object array, and reading one runs code of the file's maker; "
                "lvm-runtime train reads it with --trust-pickle if you vouch for the file"
            )
        try:
            with np.load(self.path, allow_pickle=True) as arrays:
                found: NDArray[Any] = arrays[key]
        except Exception as error:  # a pickle raises what the code in it raises
            raise InvalidInput(f"{self.path}: {key} cannot be unpickled ({error})") from error
        return found


def stacked(path: Path, key: str, array: NDArray[Any]) -> NDArray[Any]:
    """Return an object array of arrays of one shape as one float32 array, any other array as it is."""
    if array.dtype != object:
        return array
    if any(isinstance(item, np.ma.MaskedArray) for item in array.reshape(-1)):
        raise InvalidInput(f"{path}: {key} holds masked arrays; fill or drop what is masked")
    try:
        return np.stack([np.asarray(item, dtype=np.float32) for item in array])
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{path}: {key} holds objects that are not arrays of one shape ({error})") from error
