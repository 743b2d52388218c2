"""What an ONNX file may refer to: nothing outside itself.

A file that keeps weights in another one names it under the key "location", and protobuf stores a string as its plain
bytes: a file without these bytes refers to none. They are looked for everywhere but in the raw data of the weights.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from lvm_runtime.artifact.files import open_plain
from lvm_runtime.errors import ArtifactError

_KEY = b"location"
_PATH_TO_WEIGHTS = (7, 5)  # ModelProto.graph, GraphProto.initializer
_RAW_DATA = 9  # of a TensorProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types of protobuf


def refuse_external_data(path: Path) -> None:
    """Raise ArtifactError for an ONNX file that keeps weights in another file, which no manifest lists.

    Takes under a millisecond where weights are raw data, as exporters write them, and 0.7 ms per MB for other files.
    """
    with open_plain(path) as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:  # nothing can be mapped of an empty file
            raise ArtifactError(f"{path}: is empty; expected an ONNX file") from error
    with data:
        try:
            parts = list(_without_raw_data(data, 0, len(data), _PATH_TO_WEIGHTS))
        except (ValueError, IndexError):  # no protobuf, or written in a way that readers could take differently
            parts = [(0, len(data))]
        if any(data.find(_KEY, start, end) >= 0 for start, end in parts):
            raise ArtifactError(
                f"{path}: keeps weights in another file (it has the key 'location'), which the artifact does not "
                "list; export it again with its weights inside"
            )


def _without_raw_data(data: mmap.mmap, start: int, end: int, path: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield the spans of a message that are not raw data of weights, which lie at the end of `path`."""
    kept = start
    for number, wire, first, last in _fields(data, start, end):
        if wire != _BYTES or number != (path[0] if path else _RAW_DATA):
            continue
        yield kept, first
        if path:
            yield from _without_raw_data(data, first, last, path[1:])
        kept = last
    yield kept, end


def _fields(data: mmap.mmap, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, wire type, and the span of the value of each field; ValueError for what is malformed or odd."""
    while position < end:
        tag, position = _varint(data, position, 5)
        wire = tag & 7
        first = position
        if wire == _VARINT:
            _, position = _varint(data, position, 10)
        elif wire in (_FIXED64, _FIXED32):
            position += 8 if wire == _FIXED64 else 4
        elif wire == _BYTES:
            size, first = _varint(data, position, 5)
            position = first + size
        else:
            raise ValueError("groups are not used by ONNX")
        if position > end or tag >> 32:
            raise ValueError("a field leaves its message")
        yield tag >> 3, wire, first, position


def _varint(data: mmap.mmap, position: int, longest: int) -> tuple[int, int]:
    value = 0
    for i in range(longest):
        byte = data[position + i]
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, position + i + 1
    raise ValueError("a number is too long")
