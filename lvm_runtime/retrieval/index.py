"""An index over the vectors of a corpus: a folder beside it, which knows by hash what it indexes.

q queries, N vectors, D vector, k hits.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.arguments import file_name, whole_number
from lvm_runtime.contexts import Array, as_float_array, describe_bad_row, is_usable, usable_float32
from lvm_runtime.corpus.chunks import beside
from lvm_runtime.corpus.corpus import Corpus, open_corpus
from lvm_runtime.corpus.formats import SUFFIXES, ids_beside
from lvm_runtime.errors import InvalidInput
from lvm_runtime.retrieval.ann import FILE, AnnSearch, build_ann
from lvm_runtime.retrieval.exact import ExactSearch, unit_rows
from lvm_runtime.retrieval.file_record import FileRecord
from lvm_runtime.system import atomic

MANIFEST = "index.json"
EXACT, ANN = "exact", "ann"
KINDS = (EXACT, ANN)
LARGEST_EXACT = 50_000
"""Vectors up to which every one is compared: a few milliseconds a query at D = 384."""

LARGEST_NORM = 1e6
_FORMAT = 1
_ATTEMPTS = 5
"""How often an index is opened again because a writer replaced it meanwhile."""

_BLOCK = 65_536
_QUERIES = 512  # that are searched for together at most
_COMPARED = 1 << 24  # numbers of the vectors that they are compared with: 64 MiB in float32


@dataclass(frozen=True, slots=True)
class Hits:
    """The k nearest vectors of each query: `rows` `[q, k]` in the corpus and `scores` `[q, k]`, cosines, best first."""

    rows: NDArray[np.int64]
    scores: Array


@dataclass(frozen=True, slots=True)
class Record:
    """What `index.json` holds: the kind of search, N and D, the files of the corpus and that of the index, if any."""

    kind: str
    vectors: int
    dim: int
    corpus: list[FileRecord]
    files: list[FileRecord]
    format: int = _FORMAT


class Index:
    """Search over the vectors of a corpus. `build` makes one in the folder CORPUS.index, `open` opens it.

    Scores are exact cosines; only which vectors are compared depends on the kind of the index.

    The corpus is compared with what was indexed when the index is opened, and mapped from then on: whoever writes into
    its file has to open the index again. A file that takes its place, as `embed` writes one, does not disturb; only the
    texts of a compressed `.npz` and of Parquet are then refused.

    >>> from lvm_runtime.retrieval import Index
    >>> index = Index.build("corpus.npz")
    >>> hits = index.search(index.vectors(np.array([3])), k=2)
    >>> hits.rows.shape, int(hits.rows[0, 0]), round(float(hits.scores[0, 0]), 3)
    ((1, 2), 3, 1.0)
    """

    def __init__(self, path: Path, record: Record, corpus: Corpus, folder: Path | None = None) -> None:
        """Read what is in `folder`, which is `path` unless the index is on its way there."""
        self.path, self.record, self.corpus = path, record, corpus
        self._search: ExactSearch | AnnSearch
        if record.kind == EXACT:
            self._search = ExactSearch(corpus.values)
        else:
            self._search = AnnSearch((folder or path) / FILE, record.vectors, record.dim)

    @classmethod
    def build(
        cls,
        corpus: str | Path,
        kind: str = "auto",
        out: str | Path | None = None,
        *,
        report: Callable[[str], None] = lambda line: None,
    ) -> Index:
        """Index the vectors of the file `corpus` and write the index to the folder `out`, CORPUS.index if it is None.

        `kind` is "exact", "ann" (approximate, from the extra `search`) or "auto", which is exact up to 50,000 vectors.
        `report` is called with a line for each step that may take minutes.
        Raises InvalidInput for a corpus without vectors, for a vector that is not finite, and for a corpus that
        another program changes meanwhile, BackendUnavailable without the extra.

        >>> Index.build("corpus.npz", kind="exact").record.vectors
        120
        """
        source = file_name(corpus, "corpus")
        if kind not in ("auto", *KINDS):
            raise InvalidInput(f"kind is {kind!r}, expected auto, {' or '.join(KINDS)}")
        before = [FileRecord.of(file) for file in _files_of(source)]
        opened = _open_vectors(source)
        count = len(opened.values)
        if kind == "auto":
            kind = EXACT if count <= LARGEST_EXACT else ANN
        path = folder_of(source) if out is None else file_name(out, "out")
        _require_index_or_nothing(path, source)
        atomic.require_writable(path, folder=True)
        _check_values(opened)
        with atomic.replacing(path) as temporary, atomic.writing(path):
            temporary.mkdir()
            if kind == ANN:
                build_ann(opened.values, temporary / FILE, report)
            files = [FileRecord.of(temporary / FILE)] if kind == ANN else []
            record = Record(kind, count, opened.dim, before, files)
            if any(not file.matches(source.with_name(file.name)) for file in before):
                raise InvalidInput(f"{source}: another program changed it while it was indexed; make the index again")
            where = {"folder": str(source.parent.absolute())}
            (temporary / MANIFEST).write_text(json.dumps(asdict(record) | where, indent=1), encoding="utf-8")
            return cls(path, record, opened, temporary)  # at `path`, another writer may replace it at once

    @classmethod
    def open(cls, path: str | Path) -> Index:
        """Open the index in the folder `path`, or the one of the corpus `path`.

        Raises InvalidInput where there is none, where the corpus is no longer the one that was indexed, and where the
        index is damaged.

        >>> index = Index.build("corpus.npz")
        >>> Index.open("corpus.npz").record == index.record
        True
        """
        path = file_name(path, "path")
        named = "CORPUS"
        if path.suffix in SUFFIXES and not os.path.isdir(path):
            if not os.path.exists(path):
                raise InvalidInput(f"{path}: no such file; expected a corpus or the folder of an index")
            named, path = str(path), folder_of(path)
        for _ in range(_ATTEMPTS):
            before = _manifest(path)
            try:
                index = cls._open(path, named)
            except InvalidInput:
                if _manifest(path) == before:
                    raise
            else:
                if _manifest(path) == before:
                    return index
        raise InvalidInput(f"{path}: was made again {_ATTEMPTS} times while it was opened; open it when that has ended")

    @classmethod
    def _open(cls, path: Path, named: str) -> Index:
        record, folder = _read(path, named)
        source = folder / record.corpus[0].name
        added = {file.name for file in _files_of(source)} - {file.name for file in record.corpus}
        for expected in record.corpus:
            if added or not expected.matches(folder / expected.name):
                raise InvalidInput(
                    f"{path}: the corpus {folder / expected.name} is no longer the one that was indexed; "
                    f"make the index again: lvm-runtime index {source}"
                )
        for expected in record.files:
            if not os.path.exists(path / expected.name) or not expected.matches(path / expected.name):
                raise _damaged(path, f"{expected.name} is not the file that was written", source)
        corpus = _open_vectors(source)
        if corpus.values.shape != (record.vectors, record.dim):
            raise _damaged(path, f"it is of vectors {[record.vectors, record.dim]}", source)
        return cls(path, record, corpus)

    def search(self, queries: Any, k: int = 10) -> Hits:
        """Return the k vectors nearest to each query `[q, D]`; one query `[D]` is a batch of one.

        Of vectors that are equally near, those that come first in the corpus come first. All N where k is larger.
        Raises InvalidInput for another D, and for a query that is not finite or zero.

        >>> Index.build("corpus.npz").search(np.ones((4, 384)), k=3).scores.shape
        (4, 3)
        """
        k = min(whole_number(k, "k"), self.record.vectors)
        array, _ = as_float_array(queries, "queries")
        array = array[None] if array.ndim == 1 else array
        if array.ndim != 2 or array.shape[1] != self.record.dim:
            raise InvalidInput(f"queries have shape {list(array.shape)}, expected [q, {self.record.dim}]")
        unit = unit_rows(usable_float32(array, LARGEST_NORM))
        zero = np.flatnonzero(~unit.any(axis=1))
        if len(zero):
            raise InvalidInput(f"queries: row {int(zero[0])} is zero and has no direction; expected another vector")
        found = Hits(np.empty((len(unit), k), np.int64), np.empty((len(unit), k), np.float32))
        size = max(1, min(_QUERIES, _COMPARED // (k * self.record.dim)))  # of a part, whatever k is
        for begin in range(0, len(unit), size):
            part = slice(begin, begin + size)
            found.rows[part], found.scores[part] = self._best(unit[part], k)
        return found

    def _best(self, unit: Array, k: int) -> tuple[NDArray[np.int64], Array]:
        """Return rows and scores `[q, k]` for unit queries `[q, D]`, best first, and of equal ones the first row."""
        rows = np.sort(self._search.search(unit, k), axis=1)
        cosines = np.einsum("qkd,qd->qk", unit_rows(self.corpus.values[rows]), unit)
        scores = np.where(rows < 0, np.float32(-np.inf), cosines)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(rows, best, 1), np.take_along_axis(scores, best, 1)

    def vectors(self, rows: NDArray[np.int64]) -> Array:
        """Return the vectors `[…, D]` of rows `[…]` of the corpus, each of length 1. InvalidInput for other rows.

        >>> Index.build("corpus.npz").vectors(np.array([[0, 1, 2]])).shape
        (1, 3, 384)
        """
        found = np.asarray(rows)
        if found.dtype.kind not in "iu" or (found.size and not 0 <= found.min() <= found.max() < self.record.vectors):
            raise InvalidInput(f"rows are {rows!r:.99}, expected whole numbers from 0 to {self.record.vectors - 1}")
        return unit_rows(self.corpus.values[found])


def folder_of(corpus: Path) -> Path:
    """Return where the index of a corpus is, if nothing else was said."""
    return corpus.with_name(corpus.name + ".index")


def _files_of(corpus: Path) -> Sequence[Path]:
    """Return the files that a corpus consists of, itself first."""
    others = (ids_beside(corpus), beside(corpus)) if corpus.suffix == ".npy" else ()
    return [corpus, *(path for path in others if path.exists())]


def _open_vectors(path: Path) -> Corpus:
    corpus = open_corpus(path, context_length=1)
    if corpus.values.ndim != 2:
        raise InvalidInput(f"{path}: holds contexts {list(corpus.values.shape)}, expected vectors [N, D] of documents")
    if not len(corpus.values):
        raise InvalidInput(f"{path}: holds no vectors, so there is nothing to find")
    return corpus


def _check_values(corpus: Corpus) -> None:
    """Raise InvalidInput for the first vector that is not finite."""
    for begin in range(0, len(corpus.values), _BLOCK):
        original = corpus.values[begin : begin + _BLOCK]
        with np.errstate(all="ignore"):
            block = np.ascontiguousarray(original, np.float32)
        if not is_usable(block, LARGEST_NORM):
            raise InvalidInput(f"{corpus.name}: {describe_bad_row(original, block, begin, LARGEST_NORM)}")


def _require_index_or_nothing(path: Path, corpus: Path) -> None:
    """Raise InvalidInput for anything but an index at `path`, since it would be gone: others have an index.json too.

    A damaged index is known by its name, that of the index of `corpus`.
    """
    if not os.path.exists(path):
        return
    files = {file.name for file in path.iterdir()} if os.path.isdir(path) else set()
    whole = MANIFEST in files <= {MANIFEST, FILE}
    if whole and path.absolute() != folder_of(corpus).absolute():
        try:
            _read(path, str(corpus))
        except InvalidInput:
            whole = False
    if not whole:
        raise InvalidInput(f"{path}: exists and is not an index; choose another folder or move it away")


def _manifest(path: Path) -> bytes | None:
    """Return what tells the index at `path` from one that takes its place; None if there is none."""
    try:
        return (path / MANIFEST).read_bytes()
    except OSError:
        return None


def _read(path: Path, corpus: str) -> tuple[Record, Path]:
    """Return what the index at `path` says of itself, and the folder of its corpus, which errors call `corpus`."""
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"{path}: no index ({getattr(error, 'strerror', None) or error}); make one: lvm-runtime index {corpus}"
        ) from error
    try:
        found = json.loads(text)
        folder = Path(found.pop("folder"))
        lists: dict[str, Any] = {
            name: [FileRecord(**entry) for entry in found.pop(name)] for name in ("corpus", "files")
        }
        record = Record(**found, **lists)
        names = [file.name for file in (*record.corpus, *record.files)]
        if record.format != _FORMAT or record.kind not in KINDS or not record.corpus or not all(map(_is_name, names)):
            raise ValueError(f"format {record.format}, kind {record.kind!r}, files {names}")
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise _damaged(path, f"{MANIFEST}: {error}", None) from error
    near = path.parent / record.corpus[0].name
    return record, near.parent if os.path.exists(near) else folder


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and Path(name).name == name


def _damaged(path: Path, why: str, corpus: Path | None) -> InvalidInput:
    return InvalidInput(f"{path}: damaged index ({why}); make it again: lvm-runtime index {corpus or 'CORPUS'}")
