"""Files of contexts or of whole corpora, mapped into memory and read piece by piece.

Mapping saves the copy that a read makes, a few percent of the time of a small model. Pages that are done with are
handed back, because they would count as resident memory.

N rows of the file, T context length, D vector.
"""

from __future__ import annotations

import mmap
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.contexts import shape_hint
from lvm_runtime.errors import BackendUnavailable, InvalidInput
from lvm_runtime.system.mapped import mapping_of, release

_COPY_BLOCK = 1 << 22
_PARQUET_BATCH = 4096


@dataclass(frozen=True, slots=True)
class NpyFile:
    """An array in a `.npy` file, by the place of its first byte."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @classmethod
    def open(cls, path: Path) -> NpyFile:
        """Read the header of `path`; InvalidInput for what is no whole C-ordered array of floats."""
        try:
            with path.open("rb") as file:
                major, _ = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
                shape, fortran, dtype = read(file)
                offset = file.tell()
        except OSError as error:
            raise InvalidInput(f"{path}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise InvalidInput(f"{path}: not a .npy file ({error})") from error
        if dtype.kind != "f" or fortran:
            what = "Fortran order" if fortran else f"dtype {dtype}"
            raise InvalidInput(f"{path}: {what}, expected C-ordered float16, float32 or float64")
        expected = offset + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        if path.stat().st_size < expected:
            raise InvalidInput(f"{path}: {path.stat().st_size} bytes, expected {expected}; the file is truncated")
        return cls(path, offset, shape, dtype)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows start to stop."""
        row = int(np.prod(self.shape[1:], dtype=np.int64))
        flat = np.fromfile(
            self.path, self.dtype, count=(stop - start) * row, offset=self.offset + start * row * self.dtype.itemsize
        )
        return flat.reshape(stop - start, *self.shape[1:])

    def map(self) -> NDArray[Any]:
        """Return the array as a mapping of the file that is read from front to back."""
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        array = np.memmap(self.path, self.dtype, "r", self.offset, self.shape)
        mapping = mapping_of(array)
        if mapping is not None and hasattr(mapping, "madvise"):
            mapping.madvise(mmap.MADV_SEQUENTIAL)
        return np.asarray(array)


class Source:
    """What to predict: `[N, T, D]` contexts, or `[N, D]` vectors of documents, whose every window is one.

    `starts` holds the first vector of each window of a corpus, and is None for contexts. Windows do not straddle
    documents. `len` is the number of predictions; `name` is the user's file, which `file` may be unpacked from.
    """

    def __init__(self, name: Path, file: NpyFile, doc_ids: NDArray[Any] | None, context_length: int, dim: int) -> None:
        self.name, self.file, self.context_length = name, file, context_length
        shape = file.shape
        if shape[1:] not in ((context_length, dim), (dim,)):
            raise InvalidInput(
                f"{name}: array of shape {list(shape)}, expected contexts [N, {context_length}, {dim}] or "
                f"vectors [N, {dim}]{shape_hint(shape, context_length, dim)}"
            )
        self.starts = window_starts(shape[0], doc_ids, context_length) if len(shape) == 2 else None
        self._values = file.map()

    def __len__(self) -> int:
        return self.file.shape[0] if self.starts is None else len(self.starts)

    def rows(self) -> NDArray[np.int64]:
        """Return for each prediction its row in the file; for a corpus that of the window's last vector."""
        if self.starts is None:
            return np.arange(len(self))
        return self.starts + self.context_length - 1

    def read(self, start: int, stop: int) -> tuple[NDArray[Any], NDArray[np.int64] | None]:
        """Return what predictions start to stop need: contexts and None, or vectors and where each window begins."""
        first, last = self._needed(start, stop)
        return self._values[first:last], None if self.starts is None else self.starts[start:stop] - first

    def release(self, start: int, stop: int) -> None:
        """Hand the memory of what predictions start to stop needed back to the system.

        Not that of the whole file, because others are at work on their part of it, and would wait for the system to
        bring it back.
        """
        first, last = self._needed(start, stop)
        row, before = self._values.strides[0], self.file.offset % mmap.ALLOCATIONGRANULARITY
        release(mapping_of(self._values), before + first * row, before + last * row)

    def _needed(self, start: int, stop: int) -> tuple[int, int]:
        """Return the first of the file's rows that predictions start to stop need, and the one after the last."""
        if self.starts is None:
            return start, stop
        return int(self.starts[start]), int(self.starts[stop - 1]) + self.context_length


def open_source(path: Path, scratch: Path, context_length: int, dim: int) -> Source:
    """Open a `.npy`, `.npz` or `.parquet` file; the latter two are unpacked to `scratch`, not into memory.

    Raises InvalidInput for anything else, and for shapes that do not fit the model.
    """
    if not path.is_file():
        raise InvalidInput(f"{path}: no such file; expected .npy, .npz or .parquet")
    if path.suffix == ".npz":
        file, doc_ids = _unpack_npz(path, scratch)
    elif path.suffix == ".parquet":
        file, doc_ids = _unpack_parquet(path, scratch, context_length, dim)
    elif path.suffix == ".npy":
        file, doc_ids = NpyFile.open(path), None
    else:
        raise InvalidInput(f"{path}: unknown kind of file {path.suffix!r}; expected .npy, .npz or .parquet")
    return Source(path, file, doc_ids, context_length, dim)


def window_starts(count: int, doc_ids: NDArray[Any] | None, length: int) -> NDArray[np.int64]:
    """Return the first vector of every window of `length` among `count` vectors that lies within one document.

    Vectors of a document follow each other; `doc_ids` `[count]` of None means that all are of one document.
    """
    starts = np.arange(max(0, count - length + 1))
    if doc_ids is None:
        return starts
    if doc_ids.shape != (count,):
        raise InvalidInput(f"doc_ids have shape {list(doc_ids.shape)}, expected [{count}], one for each vector")
    run = np.concatenate([[0], np.cumsum(doc_ids[1:] != doc_ids[:-1])])  # number of the document in file order
    return starts[run[starts] == run[starts + length - 1]]


def _unpack_npz(path: Path, scratch: Path) -> tuple[NpyFile, NDArray[Any] | None]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy"): name for name in archive.namelist()}
            found = next((key for key in ("contexts", "vectors") if key in names), None)
            if found is None:
                raise InvalidInput(
                    f"{path}: holds {', '.join(sorted(names)) or 'nothing'}, expected contexts or vectors"
                )
            with archive.open(names[found]) as packed, scratch.open("wb") as unpacked:
                while block := packed.read(_COPY_BLOCK):
                    unpacked.write(block)
        doc_ids = None
        if found == "vectors" and "doc_ids" in names:
            with np.load(path, allow_pickle=False) as arrays:
                doc_ids = arrays["doc_ids"]
    except (zipfile.BadZipFile, ValueError) as error:
        raise InvalidInput(f"{path}: not a whole .npz file ({error})") from error
    return NpyFile.open(scratch), doc_ids


def _unpack_parquet(path: Path, scratch: Path, length: int, dim: int) -> tuple[NpyFile, NDArray[Any] | None]:
    pyarrow, parquet = import_pyarrow()
    try:
        table = parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise InvalidInput(f"{path}: not a Parquet file ({error})") from error
    lists = [f.name for f in table.schema_arrow if pyarrow.types.is_fixed_size_list(f.type)]
    column = next((name for name in ("contexts", "vectors") if name in lists), lists[0] if len(lists) == 1 else None)
    if column is None:
        columns = ", ".join(table.schema_arrow.names)
        raise InvalidInput(f"{path}: columns {columns}; expected one fixed-size list named contexts or vectors")
    size = table.schema_arrow.field(column).type.list_size
    if size not in (dim, length * dim):
        raise InvalidInput(f"{path}: lists of {size} in column {column}, expected {dim} or {length * dim}")
    row_shape = (dim,) if size == dim else (length, dim)
    blocks = (
        batch.column(0).flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, *row_shape)
        for batch in table.iter_batches(_PARQUET_BATCH, columns=[column])
    )
    _write_npy(scratch, (table.metadata.num_rows, *row_shape), blocks)
    doc_ids = table.read(["doc_ids"]).column(0).to_numpy() if "doc_ids" in table.schema_arrow.names else None
    return NpyFile.open(scratch), doc_ids if size == dim else None


def _write_npy(path: Path, shape: tuple[int, ...], blocks: Iterator[NDArray[np.float32]]) -> None:
    with path.open("wb") as file:
        write_header(file, shape)
        for block in blocks:
            file.write(np.ascontiguousarray(block).data)


def write_header(file: Any, shape: tuple[int, ...]) -> None:
    """Write the header of a float32 `.npy` of `shape`."""
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})


def import_pyarrow() -> tuple[Any, Any]:
    """Import pyarrow and its Parquet module, or raise BackendUnavailable with the pip command."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise BackendUnavailable("Parquet files need pyarrow; install it with: pip install pyarrow") from error
    return pyarrow, parquet
