"""The files that a corpus is read from, the same for training, for predictions and for the checks of an export.

A corpus is vectors [N, D] of documents, or ready-cut contexts [n, T, D], as float16, float32 or float64:

  .npy      vectors, and the ids of their documents in X.ids.npy beside X.npy; or contexts
  .npz      vectors (or vector) and doc_ids (or doc_id); or contexts (or context_sequences), and for training targets
            (or target_vectors), with the prefix train_ or not, and metadata with the article_index of each window
  .parquet  columns of the same names; vectors are lists or fixed-size lists of D numbers as pandas, polars and DuckDB
            write them, contexts lists of T lists of D numbers or lists of T*D numbers

Beside vectors there may be the chunks' texts: texts in an .npz (strings, or UTF-8 bytes with text_ends), in
X.chunks.npz beside X.npy, or as a column; and files, the names of the documents by id. They are read when asked for.

A document is a run of equal ids: integers of any width, or strings. Its vectors lie together, documents are in any
order, and no window crosses from one into the next. Without ids all vectors are one document. A .npy and the arrays of
an .npz that numpy.savez wrote are mapped and may be larger than memory; what is compressed, and Parquet, is unpacked to
a file that vanishes by itself.

N vectors, n windows, T context length, D vector.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.corpus.chunks import ChunkColumns, beside, named_by, npz_columns, parquet_columns
from lvm_runtime.corpus.documents import read_ids
from lvm_runtime.corpus.npy import NpyFile
from lvm_runtime.corpus.npz import NpzFile, stacked
from lvm_runtime.corpus.parquet import ParquetFile
from lvm_runtime.errors import InvalidInput

ACCEPTED = (__doc__ or "").partition("\n\n")[2].partition("\n\nN vectors")[0]
"""What is accepted, for the help of command lines."""

SUFFIXES = (".npy", ".npz", ".parquet")
VECTOR_KEYS = ("vectors", "vector")
ID_KEYS = ("doc_ids", "doc_id")
CONTEXT_KEYS = ("contexts", "context_sequences", "train_context_sequences")
TARGET_KEYS = ("targets", "target_vectors", "train_target_vectors")


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds: `values` are vectors `[N, D]` or contexts `[n, T, D]`, mapped.

    `doc_ids` `[N]` are exact integers, and `chunks` what is known of each vector's text; `targets` `[n, D]` and
    `articles` `[n]` belong to contexts.
    """

    values: NDArray[Any]
    doc_ids: NDArray[Any] | None = None
    targets: NDArray[Any] | None = None
    articles: NDArray[np.int64] | None = None
    chunks: ChunkColumns = field(default_factory=ChunkColumns)


def read_file(
    path: Path,
    *,
    context_length: int,
    dim: int | None = None,
    trust_pickle: bool = False,
    scratch: Path | None = None,
    rows: range | None = None,
) -> Contents:
    """Read a corpus by its suffix; what must be unpacked is unpacked to the folder `scratch`.

    T and D, if it is known, tell contexts in rows of T*D numbers from vectors. `trust_pickle` allows object arrays,
    which run code of the file's maker when they are read. `rows` asks for these rows only, of a `.npy` or Parquet.
    Raises InvalidInput with what came and what was expected.
    """
    if path.suffix == ".npy":
        return _read_npy(path, scratch, rows)
    if rows is not None and path.suffix != ".parquet":
        raise InvalidInput(f"{path}: rows of it cannot be read alone; expected .npy or .parquet")
    if path.suffix == ".npz":
        return _read_npz(path, trust_pickle, scratch)
    if path.suffix == ".parquet":
        return _read_parquet(path, context_length, dim, scratch, rows)
    if os.path.isdir(path):
        raise InvalidInput(f"{path}: is a folder, expected a file that ends in {', '.join(SUFFIXES)}")
    raise InvalidInput(f"{path}: unknown kind of file {path.suffix!r}; expected {', '.join(SUFFIXES)}")


def count_rows(path: Path) -> int:
    """Return how many rows a `.npy` or Parquet file has, without reading them."""
    if path.suffix == ".parquet":
        with ParquetFile(path) as file:
            return file.total
    if path.suffix == ".npy":
        shape = NpyFile.open(path).shape
        return shape[0] if shape else 0
    raise InvalidInput(f"{path}: unknown kind of file {path.suffix!r}; expected .npy or .parquet")


def shape_of(path: Path, *, context_length: int, dim: int | None) -> tuple[int, ...]:
    """Return the shape of what `read_file` returns as values; one row of a Parquet file is unpacked, nothing else.

    Raises InvalidInput for what is no corpus.
    """
    if path.suffix == ".npz":
        with NpzFile(path) as file:
            key = _npz_key(path, file)
            header = file.header(key)
            if header.dtype.hasobject:
                file.array(key)  # says what to do
            _require_floats(path, key, header.dtype)
            return header.shape
    if path.suffix == ".parquet":
        total = count_rows(path)
        first = read_file(path, context_length=context_length, dim=dim, rows=range(min(1, total)))
        return total, *first.values.shape[1:]
    return read_file(path, context_length=context_length).values.shape


def ids_beside(path: Path) -> Path:
    """Return the path at which the ids of the vectors in a `.npy` file are looked for."""
    return path.with_suffix(".ids.npy")


def files_with_ids(path: Path) -> list[Path]:
    """Return the files that vectors and ids are read from: `path` itself and, there or not, the ids beside a `.npy`."""
    return [path, ids_beside(path)] if path.suffix == ".npy" else [path]


def _read_npy(path: Path, scratch: Path | None, rows: range | None) -> Contents:
    part = slice(None) if rows is None else slice(rows.start, rows.stop)
    whole = _floats(path, "array", NpyFile.open(path).map)
    if whole.ndim == 0:
        return Contents(whole)
    values = whole[part]
    if whole.ndim != 2:
        return Contents(values)
    ids, names, ids_path, chunks_path = None, None, ids_beside(path), beside(path)
    if os.path.lexists(ids_path):  # a link that leads nowhere means ids too
        stored = NpyFile.open(ids_path).map()
        if stored.shape != (len(whole),):
            read_ids(ids_path, stored, len(whole))  # says what is wrong
        ids, names = read_ids(ids_path, stored[part], len(values)), named_by(stored[part])
    if rows is not None or not chunks_path.exists():
        return Contents(values, ids, chunks=ChunkColumns(names=names))
    with NpzFile(chunks_path, scratch) as file:
        return Contents(values, ids, chunks=npz_columns(file, len(values), ids, names))


def _read_npz(path: Path, trust_pickle: bool, scratch: Path | None) -> Contents:
    with NpzFile(path, scratch) as file:
        key = _npz_key(path, file)

        def array(key: str) -> NDArray[Any]:
            return stacked(path, key, file.array(key, trust_pickle=trust_pickle))

        values = _floats(path, key, lambda: array(key))
        ids_key, targets_key = _one_of(path, file.keys, ID_KEYS), _one_of(path, file.keys, TARGET_KEYS)
        if values.ndim == 2:
            ids, names = None, None
            if ids_key is not None:
                stored = file.array(ids_key)
                ids, names = read_ids(path, stored, len(values)), named_by(stored)
            return Contents(values, ids, chunks=npz_columns(file, len(values), ids, names))
        targets = None if targets_key is None else _floats(path, targets_key, lambda: array(targets_key))
        articles = None
        if targets is not None and "metadata" in file.keys:
            articles = _articles(file.array("metadata", trust_pickle=trust_pickle))
        return Contents(values, None, targets, articles)


def _npz_key(path: Path, file: NpzFile) -> str:
    key = _values_key(path, file.keys)
    if key is None:
        raise InvalidInput(f"{path}: holds {_listed(file.keys)}, expected vectors and doc_ids, or contexts")
    return key


def _read_parquet(
    path: Path, context_length: int, dim: int | None, scratch: Path | None, rows: range | None
) -> Contents:
    with ParquetFile(path, scratch, rows) as file:
        targets_key = _one_of(path, file.columns, TARGET_KEYS)
        lists = [name for name in file.list_columns() if name != targets_key]
        key = _values_key(path, lists) or (lists[0] if len(lists) == 1 else None)
        if key is None:
            raise InvalidInput(f"{path}: columns {_listed(file.columns)}; expected lists named vectors or contexts")
        values = file.array(key)
        targets = None if targets_key is None else file.array(targets_key)
        if values.ndim == 2:
            values = _unfolded(values, context_length, dim, targets, key in CONTEXT_KEYS)
        if values.ndim == 2:
            ids_key = _one_of(path, file.columns, ID_KEYS)
            ids = None if ids_key is None else file.ids(ids_key)
            return Contents(values, ids, chunks=parquet_columns(file, ids_key))
        known = targets is not None and "metadata" in file.columns
        return Contents(values, None, targets, _articles_of(file.records("metadata")) if known else None)


def _unfolded(
    values: NDArray[Any], context_length: int, dim: int | None, targets: NDArray[Any] | None, named_contexts: bool
) -> NDArray[Any]:
    """Return rows `[n, T·D]` as contexts `[n, T, D]`, and vectors `[N, D]` as they are."""
    width = values.shape[1]
    if dim is None and named_contexts:
        dim = width // context_length if targets is None else targets.shape[1]
        if targets is not None:  # they say how long the contexts are, whatever is expected
            context_length = width // max(dim, 1)
    if dim is None or width != context_length * dim or (width == dim and not named_contexts):
        return values
    return values.reshape(len(values), context_length, dim)


def _values_key(path: Path, keys: Sequence[str]) -> str | None:
    return _one_of(path, keys, (*CONTEXT_KEYS, *VECTOR_KEYS))


def _one_of(path: Path, keys: Iterable[str], known: tuple[str, ...]) -> str | None:
    """Return which of the `known` spellings is among `keys`; InvalidInput if several are."""
    found = [key for key in keys if key in known]
    if len(found) > 1:
        raise InvalidInput(f"{path}: holds {_listed(found)}; expected one of them")
    return found[0] if found else None


def _floats(path: Path, key: str, read: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    array = read()
    _require_floats(path, key, array.dtype)
    return array


def _require_floats(path: Path, key: str, dtype: np.dtype[Any]) -> None:
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise InvalidInput(f"{path}: {key} has dtype {dtype}, expected float16, float32 or float64")


def _articles(metadata: NDArray[Any]) -> NDArray[np.int64] | None:
    """Return `article_index` of each window, from metadata as objects, JSON strings or a structured array."""
    if metadata.dtype.names and "article_index" in metadata.dtype.names:
        numbers = metadata["article_index"]
        return numbers.astype(np.int64) if numbers.dtype.kind in "iu" and numbers.ndim == 1 else None
    return _articles_of(metadata.reshape(-1).tolist())


def _articles_of(records: list[Any]) -> NDArray[np.int64] | None:
    try:
        rows = [json.loads(item) if isinstance(item, str) else item for item in records]
        return np.array([row["article_index"] for row in rows], dtype=np.int64)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
        return None  # metadata without article_index: the split falls back to a gap, and says so


def _listed(names: Sequence[str]) -> str:
    return ", ".join(sorted(name if name.isprintable() else repr(name) for name in names)) or "nothing"
