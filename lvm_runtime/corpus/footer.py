"""Where a Parquet file begins, by what its footer says: after `cat a.parquet b.parquet` that is not at byte 0.

All places in a footer count from the file's own first byte, and readers take them from the first byte of what is
there: of two joined files, they read the numbers of the first by the footer of the last. pyarrow knows the places too,
but ends the process when it is asked for those of a damaged footer. So this reads them itself.

A footer is a struct in Thrift's compact protocol:
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

from typing import Any, BinaryIO

_MAGIC = b"PAR1"
_BYTE, _WHOLE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 3, (4, 5, 6), 7, 8, 9, 10, 11, 12
_LONGEST = 10  # bytes of a number of 64 bits

_ROW_GROUPS = 4  # of the file
_COLUMNS = 1  # of a row group
_METADATA, _OFFSET_INDEX, _COLUMN_INDEX = 3, 4, 6  # of a column chunk; the length of an index follows its place
_COMPRESSED_SIZE, _DATA_PAGES, _DICTIONARY, _BLOOM_FILTER = 7, 9, 11, 14  # of a column chunk's metadata


def begin(file: BinaryIO) -> int:
    """Return the first byte of the Parquet file that ends where `file` does; 0 if a footer is damaged.

    In a lone file the footer follows the last thing that it names. Where there is a gap of n bytes, n bytes of
    something else precede the file, if a Parquet file begins at byte n; otherwise the writer left the gap.
    """
    size = file.seek(0, 2)
    try:
        length = int.from_bytes(_read(file, size - 8, 4), "little")
        gap = size - 8 - length - _end(_Thrift(_read(file, size - 8 - length, length)).value(_STRUCT))
        return gap if gap > 0 and _read(file, gap, 4) == _MAGIC else 0
    except (IndexError, KeyError, TypeError, AttributeError, ValueError, OSError, RecursionError):
        return 0


def _read(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)


def _end(footer: dict[int, Any]) -> int:
    """Return where the last thing ends that the footer names."""
    ends = [len(_MAGIC)]
    for chunk in (chunk for group in footer[_ROW_GROUPS] for chunk in group[_COLUMNS]):
        ends += [chunk[index] + chunk[index + 1] for index in (_OFFSET_INDEX, _COLUMN_INDEX) if index in chunk]
        if metadata := chunk.get(_METADATA):  # encrypted columns may have none that can be read
            places = [metadata[_DATA_PAGES], metadata.get(_DICTIONARY)]  # 0 or none where there is no such page
            ends += [min(filter(None, places), default=0) + metadata[_COMPRESSED_SIZE]]
            ends += [metadata.get(_BLOOM_FILTER, 0) + metadata.get(_BLOOM_FILTER + 1, 0)]
    return max(ends)


class _Thrift:
    """Values one after the other: structs as dicts by field number, whole numbers, and None for what is not needed."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def value(self, kind: int) -> Any:
        """Return the next value, of `kind`; ValueError or IndexError where there is none."""
        if kind in _WHOLE:
            number = self._unsigned()
            return (number >> 1) ^ -(number & 1)
        if kind == _STRUCT:
            return dict(self._fields())
        if kind in (_LIST, _SET):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._unsigned()
            return [self._item(head & 15) for _ in range(count)]
        if kind == _MAP:
            count = self._unsigned()
            kinds = self._byte() if count else 0
            return [(self._item(kinds >> 4), self._item(kinds & 15)) for _ in range(count)]
        if kind not in (_BYTE, _DOUBLE, _BINARY):
            raise ValueError(f"no kind {kind} of value")
        skipped = {_BYTE: 1, _DOUBLE: 8}.get(kind) or self._unsigned()
        self._at += skipped
        if self._at > len(self._data):  # else a list of numbers that are not there would be counted out
            raise IndexError("a value beyond the end")
        return None

    def _fields(self) -> Any:
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self.value(_WHOLE[0])
            yield number, None if head & 15 < _BYTE else self.value(head & 15)  # a Boolean is its own kind

    def _item(self, kind: int) -> Any:
        return self.value(kind if kind >= _BYTE else _BYTE)  # in a list a Boolean takes a byte

    def _unsigned(self) -> int:
        number = 0
        for shift in range(0, 7 * _LONGEST, 7):
            byte = self._byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
        raise ValueError("a number of more than 64 bits")

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]
