"""Encoded pieces of documents on the disk, so that a killed run goes on and a second one takes over.

A piece is found by its texts. The file begins with a line of JSON that says which encoder it is of; then comes a record
for each piece: SHA-256 of its texts, number of chunks, bytes of text (two uint32), vectors in float16, the length of
each text (uint32), the texts in UTF-8, and the CRC-32 of all that.

n chunks of a piece, D vector.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.errors import InvalidInput
from lvm_runtime.system import atomic

_HEAD = struct.Struct("<32sII")
_CRC = struct.Struct("<I")
_FORMAT = "lvm_runtime pieces 1"


def key_of(texts: Sequence[str]) -> bytes:
    """Return what a piece is found by."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).digest()


class Store:
    """The pieces in the file `path`, all of the encoder that `made` describes, which the file's first line holds.

    `agrees` says whether the encoder of such a description is this one. Records that are damaged or cut off, and what
    follows them, are dropped. A context manager. Raises InvalidInput for the file of another encoder, WriteFailed where
    it cannot be written.
    """

    def __init__(
        self, path: Path, dim: int, made: dict[str, Any], agrees: Callable[[dict[str, Any] | None], bool]
    ) -> None:
        self.path, self.dim = path, dim
        self._places: dict[bytes, int] = {}
        with atomic.writing(path):
            self._file = path.open("a+b")
            try:
                self._take_over(json.dumps({"format": _FORMAT, **made}).encode() + b"\n", agrees)
            except BaseException:
                with suppress(OSError):  # a full disk does not take the rest of the buffer either
                    self._file.close()
                raise

    def _take_over(self, heading: bytes, agrees: Callable[[dict[str, Any] | None], bool]) -> None:
        """Find what a run before has left, or begin the file with `heading`."""
        self._file.seek(0)
        found = self._file.readline()
        if not found.endswith(b"\n"):  # killed while the first line was being written
            self._file.truncate(0)
            self._file.write(heading)
        elif not agrees(_parse(found)):
            raise InvalidInput(
                f"{self.path}: left by a run with another encoder; run the same command as before, or give --restart"
            )
        self._scan(len(found) if found.endswith(b"\n") else len(heading))

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def add(self, key: bytes, vectors: NDArray[np.float16], texts: Sequence[str]) -> None:
        """Append a piece; it is there for the next run even if this process is killed at once."""
        encoded = [text.encode("utf-8", "replace") for text in texts]
        lengths = np.array([len(text) for text in encoded], "<u4")
        head = _HEAD.pack(key, len(texts), int(lengths.sum()))
        record = b"".join([head, np.asarray(vectors, "<f2").tobytes(), lengths.tobytes(), *encoded])
        with atomic.writing(self.path):
            self._file.seek(0, 2)
            place = self._file.tell()
            self._file.write(record + _CRC.pack(zlib.crc32(record)))
            self._file.flush()
        self._places[key] = place

    def read(self, key: bytes) -> tuple[NDArray[np.float16], list[str]]:
        """Return the vectors `[n, D]` and texts of a piece."""
        record = self._record(self._places[key])
        assert record is not None
        _, count, _ = _HEAD.unpack_from(record)
        ends = _HEAD.size + count * self.dim * 2
        vectors = np.frombuffer(record, "<f2", count * self.dim, _HEAD.size).reshape(count, self.dim)
        texts, place = [], ends + 4 * count
        for length in np.frombuffer(record, "<u4", count, ends).tolist():
            texts.append(record[place : place + length].decode("utf-8"))
            place += length
        return vectors, texts

    def _scan(self, place: int) -> None:
        """Find the whole records from `place` on, and cut off the rest."""
        while (record := self._record(place)) is not None:
            self._places[record[:32]] = place
            place += len(record) + _CRC.size
        self._file.truncate(place)

    def _record(self, place: int) -> bytes | None:
        """Return the record at `place` without its checksum, None if there is no whole one."""
        self._file.seek(place)
        head = self._file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return None
        _, count, size = _HEAD.unpack(head)
        rest = self._file.read(count * (self.dim * 2 + 4) + size + _CRC.size)
        if len(rest) < count * (self.dim * 2 + 4) + size + _CRC.size:
            return None
        record = head + rest[: -_CRC.size]
        return record if _CRC.unpack(rest[-_CRC.size :])[0] == zlib.crc32(record) else None


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and found.get("format") == _FORMAT else None
