"""A corpus: the vectors of documents in order, and which document each belongs to.

N vectors, n windows, T context length, D vector.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.contexts import shape_hint
from lvm_runtime.corpus.chunks import Chunk, ChunkColumns, positions
from lvm_runtime.corpus.documents import run_begins, window_starts
from lvm_runtime.corpus.formats import read_file, shape_of
from lvm_runtime.errors import InvalidInput, counted

BUNDLED = Path(__file__).parent / "docs-minilm-384.npz"
"""Vectors of 204 documents, D = 384; train/data/README.md says of which."""

_BLOCK = 4096  # rows hashed at a time
_ONE_DOCUMENT = "note: there are no ids (doc_ids) beside the vectors, so they are taken as one document"


@dataclass(frozen=True, slots=True)
class Corpus:
    """Vectors `[N, D]` with exact `doc_ids` `[N]` (None: one document), or ready-cut contexts `[n, T, D]`.

    `values` may be mapped. `groups` says for each vector or context what must stay on one side of a split: its
    document, for contexts the article that they came from; None where that is not known. `targets` `[n, D]` are the
    vectors that followed the contexts, if the file has them. `columns` reads what is known of the vectors' texts.
    """

    name: str
    values: NDArray[Any]
    doc_ids: NDArray[Any] | None = None
    groups: NDArray[np.int64] | None = None
    targets: NDArray[Any] | None = None
    remarks: tuple[str, ...] = ()
    columns: ChunkColumns = field(default_factory=ChunkColumns)

    @property
    def dim(self) -> int:
        """D."""
        return int(self.values.shape[-1])

    @property
    def document_ids(self) -> NDArray[Any]:
        """Which document each vector belongs to `[N]`; where that is not known, all are of one document."""
        return np.zeros(len(self.values), np.int64) if self.doc_ids is None else self.doc_ids

    def starts(self, rows: int) -> NDArray[np.int64]:
        """Return where each window of `rows` vectors begins: T for a prediction, T + 1 with the one that follows.

        Windows lie within one document. Of contexts `[n, T, D]` each is one.
        """
        if self.values.ndim == 3:
            return np.arange(len(self.values))
        return window_starts(len(self.values), self.doc_ids, rows)

    def windows(self, starts: NDArray[np.int64], rows: int) -> NDArray[Any]:
        """Return the windows `[n, rows, D]` that begin at `starts` `[n]`."""
        return self.values[starts] if self.values.ndim == 3 else self.values[starts[:, None] + np.arange(rows)]

    def chunks(self, rows: NDArray[np.int64]) -> list[Chunk]:
        """Return the chunks of rows `[n]` of vectors: text, document and place. Reads these rows only."""
        ids = self.document_ids
        texts = [None] * len(rows) if self.columns.texts is None else self.columns.texts(rows)
        names = [str(i) for i in ids[rows].tolist()] if self.columns.names is None else self.columns.names(rows)
        places = positions(run_begins(ids), rows)
        found = zip(rows.tolist(), names, places, texts, strict=True)
        return [Chunk(row, str(name), place, text) for row, name, place, text in found]

    def digest(self) -> str:
        """Return a hash of every row, id and group, to tell whether two runs saw the same data.

        It takes a second per GB, and a block of rows in memory.
        """
        digest = hashlib.sha256()
        arrays = {"values": self.values, "doc_ids": self.doc_ids, "groups": self.groups}
        for name, array in arrays.items():
            if array is None:
                continue
            digest.update(f"{name} {array.shape} {array.dtype.str}".encode())
            for begin in range(0, len(array), _BLOCK):
                digest.update(np.ascontiguousarray(array[begin : begin + _BLOCK]).data)
        return digest.hexdigest()[:32]


def of_documents(name: str, vectors: NDArray[Any], doc_ids: NDArray[Any]) -> Corpus:
    """Return the corpus of vectors `[N, D]` whose documents, given by `doc_ids` `[N]`, are its groups."""
    groups = np.zeros(len(doc_ids), np.int64)
    groups[run_begins(doc_ids)[1:]] = 1
    return Corpus(name, vectors, doc_ids, np.cumsum(groups))


def open_corpus(
    path: Path,
    *,
    context_length: int,
    dim: int | None = None,
    trust_pickle: bool = False,
    scratch: Path | None = None,
    rows: range | None = None,
) -> Corpus:
    """Open the file `path`, in any format that `formats` names, as vectors or contexts that a model of T and D takes.

    Without `dim` any D will do. What must be unpacked is unpacked to the folder `scratch`, or where the system keeps
    temporary files. `rows` opens these rows only, of a `.npy` or Parquet. Raises InvalidInput for anything else.
    """
    contents = read_file(
        path, context_length=context_length, dim=dim, trust_pickle=trust_pickle, scratch=scratch, rows=rows
    )
    shape = contents.values.shape
    _require_shape(path, shape, context_length, dim)
    if len(shape) == 3:
        if contents.articles is not None and len(contents.articles) != shape[0]:
            entries = counted(len(contents.articles), "entry", "entries")
            raise InvalidInput(f"{path}: metadata has {entries} for {counted(shape[0], 'context')}")
        return Corpus(str(path), contents.values, None, contents.articles, contents.targets)
    if contents.doc_ids is None:
        return Corpus(str(path), contents.values, remarks=(_ONE_DOCUMENT,), columns=contents.chunks)
    return replace(of_documents(str(path), contents.values, contents.doc_ids), columns=contents.chunks)


def require_corpus(path: Path, *, context_length: int, dim: int) -> None:
    """Raise what `open_corpus` raises for the kind of the file `path` and its shape, without unpacking it."""
    _require_shape(path, shape_of(path, context_length=context_length, dim=dim), context_length, dim)


def _require_shape(path: Path, shape: tuple[int, ...], context_length: int, dim: int | None) -> None:
    if (
        len(shape) not in (2, 3)
        or not all(shape[1:])
        or (dim is not None and shape[1:] not in ((context_length, dim), (dim,)))
    ):
        d = "D" if dim is None else dim
        hint = "" if dim is None else shape_hint(shape, context_length, dim)
        raise InvalidInput(
            f"{path}: array of shape {list(shape)}, expected contexts [N, {context_length}, {d}] or "
            f"vectors [N, {d}]{hint}"
        )


def joined(corpus: Corpus) -> Corpus:
    """Return contexts `[n, T, D]` and their targets as n documents of T + 1 vectors, any other corpus as it is.

    Raises InvalidInput for contexts whose targets are missing or do not fit.
    """
    if corpus.values.ndim == 2:
        return corpus
    contexts, targets = corpus.values, corpus.targets
    n, steps, dim = contexts.shape
    if targets is None or targets.shape != (n, dim):
        came = "no targets" if targets is None else f"targets {list(targets.shape)}"
        raise InvalidInput(f"{corpus.name}: contexts {[n, steps, dim]} and {came}; expected targets {[n, dim]}")
    vectors = np.concatenate([contexts, targets[:, None]], axis=1).reshape(n * (steps + 1), dim)
    groups = None if corpus.groups is None else np.repeat(corpus.groups, steps + 1)
    return Corpus(corpus.name, vectors, np.repeat(np.arange(n), steps + 1), groups, remarks=corpus.remarks)
