"""The chunks behind the vectors of a corpus: text, document and place, read from the disk for the rows asked for.

An `.npz` holds the texts as `texts`, an array of strings `[N]`, or as one run of UTF-8 bytes in which text i ends at
`text_ends[i]`. A `.npy` has the same arrays in `X.chunks.npz` beside it, Parquet a column of strings.

N vectors, n rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.corpus.npz import NpzFile
from lvm_runtime.corpus.parquet import ParquetFile
from lvm_runtime.errors import InvalidInput

TEXT_KEYS = ("texts", "text")
ENDS, FILES, MADE = "text_ends", "files", "made"
METADATA = b"lvm_runtime"
"""The key of a Parquet file's metadata that holds what `made` holds in an .npz."""

Column = Callable[[NDArray[np.int64]], list[str | None]]
"""Returns the strings of rows `[n]`."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document: the row of its vector, its document, its place there (0 is the first), its text if known.

    >>> Chunk(row=7, document="a.txt", position=2, text="Water boils.").position
    2
    """

    row: int
    document: str
    position: int
    text: str | None


@dataclass(frozen=True, slots=True)
class ChunkColumns:
    """Where the chunks' texts and the names of their documents are read, None where the file has none.

    `made` says how `embed` made the corpus: encoder, tokens, overlap and the encoder's probe.
    """

    texts: Column | None = None
    names: Column | None = None
    made: dict[str, Any] | None = None


def beside(path: Path) -> Path:
    """Return the path at which the chunks of the vectors in a `.npy` file are looked for."""
    return path.with_suffix(".chunks.npz")


def npz_columns(file: NpzFile, count: int, doc_ids: NDArray[Any] | None, names: Column | None) -> ChunkColumns:
    """Return the columns of an open `.npz` for `count` vectors. InvalidInput if they are not of one length.

    `names` is used where the file does not name its documents.
    """
    key = next((key for key in TEXT_KEYS if key in file.keys), None)
    texts = None if key is None else _npz_texts(file, key, count)
    if doc_ids is not None and FILES in file.keys:
        names = _npz_names(file, doc_ids)
    made = _parse(str(file.array(MADE))) if MADE in file.keys else None
    return ChunkColumns(texts, names, made)


def named_by(ids: NDArray[Any]) -> Column | None:
    """Return the column of document names that ids `[N]` as they are in the file give, None if they are numbers."""
    if ids.dtype.kind not in "US":
        return None

    def read(rows: NDArray[np.int64]) -> list[str | None]:
        return [i.decode("utf-8", "replace") if isinstance(i, bytes) else i for i in ids[rows].tolist()]

    return read


def _npz_texts(file: NpzFile, key: str, count: int) -> Column:
    """Return the column of `texts`, which are read where they lie when rows are asked for."""
    header = file.header(key)
    packed = header.dtype == np.uint8 and ENDS in file.keys
    length = file.header(ENDS).shape if packed else header.shape
    if file.header(ENDS).dtype.kind not in "iu" if packed else header.dtype.kind != "U":
        raise InvalidInput(
            f"{file.path}: {key} has dtype {header.dtype}, expected strings, or UTF-8 bytes (uint8) with whole {ENDS}"
        )
    if length != (count,):
        raise InvalidInput(f"{file.path}: {key} holds {list(length)} texts, expected [{count}], one for each vector")
    path, arrays = file.path, file.later(*([key, ENDS] if packed else [key]))

    def read(rows: NDArray[np.int64]) -> list[str | None]:
        array, *others = arrays()
        if not others:
            return [str(text) for text in array[rows]]
        (ends,) = others
        begins = np.where(rows > 0, ends[rows - 1], 0)
        wrong = np.flatnonzero(~((begins >= 0) & (begins <= ends[rows]) & (ends[rows] <= len(array))))
        if len(wrong):
            raise InvalidInput(f"{path}: {ENDS} of row {rows[wrong[0]]} is out of order, or beyond the texts")
        spans = zip(begins.tolist(), ends[rows].tolist(), strict=True)
        return [array[begin:end].tobytes().decode("utf-8", "replace") for begin, end in spans]

    return read


def _npz_names(file: NpzFile, doc_ids: NDArray[Any]) -> Column:
    """Return the column of document names: `files[id]`, or the id where there is no such file."""
    header = file.header(FILES)
    if header.dtype.kind != "U" or len(header.shape) != 1:
        raise InvalidInput(f"{file.path}: {FILES} is {header.dtype} {list(header.shape)}, expected a list of strings")

    arrays = file.later(FILES)

    def read(rows: NDArray[np.int64]) -> list[str | None]:
        (files,) = arrays()
        return [str(files[i]) if 0 <= i < len(files) else str(i) for i in doc_ids[rows].tolist()]

    return read


def parquet_columns(file: ParquetFile, ids_key: str | None) -> ChunkColumns:
    """Return the columns of an open Parquet file."""
    strings = file.string_columns()
    texts = next((file.strings_later(key) for key in TEXT_KEYS if key in strings), None)
    names = file.strings_later(ids_key) if ids_key in strings else None
    return ChunkColumns(texts, names, _parse(file.metadata(METADATA)))


def positions(begins: NDArray[np.int64], rows: NDArray[np.int64]) -> Iterable[int]:
    """Return each row's place in its document, where documents begin at rows `begins`."""
    found: list[int] = (rows - begins[np.searchsorted(begins, rows, side="right") - 1]).tolist()
    return found


def _parse(text: str | None) -> dict[str, Any] | None:
    try:
        found = None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
