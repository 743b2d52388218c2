"""Columns of a Parquet file as arrays, read a batch of rows at a time.

n rows of a batch, N rows of the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from threading import Event, Lock
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.corpus import footer
from lvm_runtime.corpus.documents import DocumentIds
from lvm_runtime.corpus.npy import open_regular, require_same, state_of, unpack
from lvm_runtime.errors import InvalidInput, counted
from lvm_runtime.system import extras
from lvm_runtime.system.cpus import usable_cpus

_ROWS = 512  # of a batch: 16 MB of the widest contexts that are usual
_IDS = 1 << 16  # and of a batch of ids
_TEXTS = 1 << 10  # and of a batch of texts, of which few are wanted
_BUFFER = 1 << 20  # read at a time from each column; without it, a whole row group is, of 500 MB and more


class ParquetFile:
    """An open Parquet file, or the given `rows` of one, of which only the row groups that hold them are read.

    Raises BackendUnavailable without pyarrow, InvalidInput if `path` is no Parquet file.
    """

    def __init__(self, path: Path, scratch: Path | None = None, rows: range | None = None) -> None:
        self.path, self._scratch = path, scratch
        self._arrow, parquet = import_pyarrow(path)
        open_regular(path).close()
        self._state = state_of(path)
        try:
            self._file = parquet.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False)
            self.columns: list[str] = self._file.schema_arrow.names
        except (self._arrow.ArrowException, OSError, ValueError) as error:
            raise InvalidInput(f"{path}: not a Parquet file ({error})") from error
        if rows is None:  # whoever asks for some rows has opened the whole file before
            self._require_alone()
        self.total = int(self._file.metadata.num_rows)
        self._span = range(self.total) if rows is None else rows
        self._rows = len(self._span)

    def __enter__(self) -> ParquetFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _require_alone(self) -> None:
        with open_regular(self.path) as file:
            begin = footer.begin(file)
        if begin:
            self._file.close()
            raise InvalidInput(
                f"{self.path}: its first {begin} bytes belong to another file and would not be read; "
                "expected one .parquet, and not several; write their tables as one file"
            )

    def list_columns(self) -> list[str]:
        """Return the names of the columns that hold lists."""
        return [field.name for field in self._file.schema_arrow if self._is_list(field.type)]

    def string_columns(self) -> list[str]:
        """Return the names of the columns that hold strings."""
        return [field.name for field in self._file.schema_arrow if self._is_string(field.type)]

    def metadata(self, key: bytes) -> str | None:
        """Return an entry of the file's own metadata, None if there is none."""
        found = (self._file.schema_arrow.metadata or {}).get(key)
        return None if found is None else found.decode("utf-8", "replace")

    def strings(self, column: str, rows: NDArray[np.int64]) -> list[str | None]:
        """Return the strings of `rows` `[n]`; of the row groups that hold them, and of no other, batches are read."""
        groups = range(self._file.metadata.num_row_groups)
        ends = np.cumsum([self._file.metadata.row_group(group).num_rows for group in groups], dtype=np.int64)
        wanted = np.unique(rows)
        found: dict[int, str | None] = {}
        for group in np.unique(np.searchsorted(ends, wanted, side="right")).tolist():
            first = int(ends[group - 1]) if group else 0
            inside = wanted[(wanted >= first) & (wanted < ends[group])]
            for start, values in self._batches(column, _TEXTS, range(first, int(ends[group]))):
                here = inside[(inside >= start) & (inside < start + len(values))]
                found |= zip(here.tolist(), values.take(self._arrow.array(here - start)).to_pylist(), strict=True)
                if start + len(values) > inside[-1]:
                    break
        return [found[row] for row in rows.tolist()]

    def strings_later(self, column: str) -> Callable[[NDArray[np.int64]], list[str | None]]:
        """Return what does what `strings` does after this file was closed; InvalidInput if it is another by then."""
        path, rows_of_file, before = self.path.absolute(), range(self.total), self._state

        def read(rows: NDArray[np.int64]) -> list[str | None]:
            with ParquetFile(path, rows=rows_of_file) as again:
                require_same(path, again._state, before)
                return again.strings(column, rows)

        return read

    def array(self, column: str) -> NDArray[Any]:
        """Return a column of lists of one length as `[N, length]`, or of lists of lists as `[N, n, m]`.

        It is unpacked to a nameless file and mapped. Raises InvalidInput for nulls and for lists of unequal lengths.
        """
        if not self._rows:
            return np.empty((0, *self._fixed_sizes(column)), np.float32)
        first = next(self._dense(column))
        if first.dtype.kind != "f":
            raise InvalidInput(
                f"{self.path}: column {column} holds {first.dtype}, expected float16, float32 or float64"
            )
        shape = (self._rows, *first.shape[1:])
        copy = partial(_copy, self.path, self._state, column, first[0], self._span.start)
        return unpack(partial(_side_by_side, copy, self._parts()), shape, first.dtype, self.path, self._scratch)

    def _parts(self) -> list[range]:
        """Return the rows in as many parts of whole row groups as there are CPUs."""
        groups, start, _ = self._groups(self._span)
        sizes = [self._file.metadata.row_group(group).num_rows for group in groups]
        ends = start + np.cumsum(sizes)
        count = min(usable_cpus(), len(groups))
        cuts = {int(ends[len(groups) * part // count - 1]) for part in range(1, count)}  # fewer where groups are empty
        return [range(*pair) for pair in pairwise(sorted({self._span.start, *cuts, self._span.stop}))]

    def ids(self, column: str) -> NDArray[Any]:
        """Return a column of ids `[N]` as exact integers; InvalidInput for nulls and for documents in pieces."""
        found = DocumentIds(self.path)
        for first, values in self._batches(column, _IDS):
            found.add(self._plain(values, column, first))
        return found.together()

    def records(self, column: str) -> list[Any]:
        """Return a column as Python objects."""
        return [item for _, values in self._batches(column, _IDS) for item in values.to_pylist()]

    def _batches(self, column: str, rows: int, span: range | None = None) -> Iterator[tuple[int, Any]]:
        """Yield the rows `span` of the column in parts, each with the number of its first row in the file."""
        span = self._span if span is None else span
        groups, first, last = self._groups(span)
        try:
            for batch in self._file.iter_batches(rows, row_groups=groups, columns=[column]):
                stop = first + batch.num_rows
                low, high = max(first, span.start), min(stop, span.stop)
                if low < high:
                    yield low, batch.column(0).slice(low - first, high - low)
                first = stop
        except (self._arrow.ArrowException, OSError) as error:
            raise InvalidInput(f"{self.path}: column {column} cannot be read from row {first} on ({error})") from error
        if first != max(last, span.stop):
            raise InvalidInput(
                f"{self.path}: column {column} holds {counted(first, 'row')}, expected {max(last, span.stop):,} as the "
                "file says"
            )

    def _groups(self, span: range) -> tuple[list[int], int, int]:
        """Return the row groups that hold the rows, the first row of these groups and the one after their last."""
        sizes = [self._file.metadata.row_group(i).num_rows for i in range(self._file.metadata.num_row_groups)]
        starts = np.cumsum([0, *sizes]).tolist()
        groups = [i for i in range(len(sizes)) if starts[i] < span.stop and starts[i + 1] > span.start]
        return groups, *((starts[groups[0]], starts[groups[-1] + 1]) if groups else (0, 0))

    def _dense(self, column: str) -> Iterator[NDArray[Any]]:
        for first, values in self._batches(column, _ROWS):
            yield self._block(values, column, first)

    def _block(self, values: Any, column: str, first: int) -> NDArray[Any]:
        """Return the lists of a batch as `[n, …]`."""
        types, sizes = self._arrow.types, [len(values)]
        if isinstance(values.type, self._arrow.FixedShapeTensorType):
            self._no_nulls(values, column, first, 1)
            self._no_nulls(values.storage.flatten(), column, first, math.prod(values.type.shape))
            return values.to_numpy_ndarray()
        while self._is_list(values.type):
            width = math.prod(sizes[1:])
            self._no_nulls(values, column, first, width)
            if types.is_fixed_size_list(values.type):
                size = values.type.list_size
            else:
                lengths = values.value_lengths().to_numpy()
                size = int(lengths[0])
                if (lengths != size).any():
                    row = int(np.flatnonzero(lengths != size)[0])
                    raise self._unequal(column, first + row // width, (int(lengths[row]),), (size,))
            if not size:
                raise InvalidInput(f"{self.path}: row {first} of column {column} is an empty list, expected numbers")
            sizes.append(size)
            values = values.flatten()
        self._no_nulls(values, column, first, math.prod(sizes[1:]))
        if not types.is_floating(values.type):
            raise InvalidInput(
                f"{self.path}: column {column} holds {values.type}, expected lists of float16, float32 or float64"
            )
        return values.to_numpy(zero_copy_only=False).reshape(sizes)

    def _plain(self, ids: Any, column: str, first: int) -> NDArray[Any]:
        """Return a batch of ids as integers or as objects, dictionaries and extensions unwrapped."""
        types = self._arrow.types
        if types.is_dictionary(ids.type):
            ids = ids.dictionary_decode()
        if isinstance(ids.type, self._arrow.BaseExtensionType):  # UUIDs
            ids = ids.storage
        self._no_nulls(ids, column, first, 1)
        kinds = ("integer", "string", "large_string", "string_view", "binary", "large_binary", "fixed_size_binary")
        if not any(getattr(types, f"is_{kind}", bool)(ids.type) for kind in kinds):
            raise InvalidInput(f"{self.path}: column {column} holds {ids.type}, expected integers or strings")
        return ids.to_numpy(zero_copy_only=False)

    def _no_nulls(self, values: Any, column: str, first: int, width: int) -> None:
        if values.null_count:
            row = first + int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0]) // width
            raise InvalidInput(f"{self.path}: row {row} is null in column {column}; drop or fill such rows")

    def _unequal(self, column: str, row: int, found: tuple[int, ...], expected: tuple[int, ...]) -> InvalidInput:
        came, before = ("×".join(map(str, shape)) for shape in (found, expected))
        numbers = "number" if came == "1" else "numbers"
        return InvalidInput(
            f"{self.path}: row {row} of column {column} holds {came} {numbers} and the rows before it {before}; "
            "expected lists of one length"
        )

    def _is_list(self, kind: Any) -> bool:
        types = self._arrow.types
        tensor = isinstance(kind, self._arrow.FixedShapeTensorType)
        return tensor or types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)

    def _is_string(self, kind: Any) -> bool:
        types = self._arrow.types
        if types.is_dictionary(kind):
            kind = kind.value_type
        return any(getattr(types, f"is_{name}", bool)(kind) for name in ("string", "large_string", "string_view"))

    def _fixed_sizes(self, column: str) -> tuple[int, ...]:
        """Return the sizes that the type of a column says."""
        sizes: tuple[int, ...] = ()
        kind = self._file.schema_arrow.field(column).type
        with suppress(AttributeError):
            return tuple(kind.shape)
        while self._is_list(kind):
            sizes += (getattr(kind, "list_size", 0),)
            kind = kind.value_type
        return sizes


def _copy(
    path: Path,
    before: tuple[int, ...],
    column: str,
    like: NDArray[Any],
    origin: int,
    file: BinaryIO,
    lock: Lock,
    stop: Event,
    rows: range,
) -> None:
    """Write `rows` of a column, each a list such as `like`, to their place in `file`, which begins with `origin`.

    Raises InvalidInput if the file at `path` is no longer in the state `before`.
    """
    with ParquetFile(path, rows=rows) as part:
        require_same(path, part._state, before)
        first = rows.start
        for block in part._dense(column):
            if stop.is_set():
                return
            if block.shape[1:] != like.shape:
                raise part._unequal(column, first, block.shape[1:], like.shape)
            with lock:
                file.seek((first - origin) * like.nbytes)
                file.write(np.ascontiguousarray(block).data.cast("B"))
            first += len(block)


def _side_by_side(copy: Callable[[BinaryIO, Lock, Event, range], None], parts: list[range], file: BinaryIO) -> None:
    """Copy the parts in a thread each: reading Parquet takes longer than writing what it holds."""
    lock, stop = Lock(), Event()
    with ThreadPoolExecutor(len(parts), "lvm-parquet") as pool:
        try:
            for _ in pool.map(partial(copy, file, lock, stop), parts):
                pass
        finally:
            stop.set()


def import_pyarrow(path: Path | None = None) -> tuple[Any, Any]:
    """Import pyarrow and its Parquet module, or raise BackendUnavailable with the pip command.

    Raises InvalidInput for the `path` of a file to read or to write whose name pyarrow does not take.
    """
    extras.require("parquet", "reading and writing Parquet", "pyarrow", "pyarrow.parquet")
    import pyarrow
    from pyarrow import parquet

    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{path}: pyarrow takes names in UTF-8 only; choose another name") from error
    return pyarrow, parquet
