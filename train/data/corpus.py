"""A corpus: the vectors of documents' chunks in document order, and which document each belongs to.

Windows (T context vectors and the one that follows) are cut from it on the fly and never cross a
document's border. People also have ready-cut windows `[n, T, D]` with targets `[n, D]`; those become a
corpus of n little documents, one window each, and keep the article they came from as their group.

N vectors, D vector, T context length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import lvm_runtime.corpus
from lvm_runtime.errors import InvalidInput

from .formats import RawCorpus, read_corpus
from .synthetic import SyntheticProcess

BUNDLED = Path(lvm_runtime.corpus.__file__).parent / "docs-minilm-384.npz"
UNIT_NORM_TOLERANCE = 1e-2
"""A row further than this from length 1 is counted as not normalised; float16 rounding stays under 1e-3."""

_BLOCK = 65_536  # rows read at a time: a mapped corpus never has to fit into memory


@dataclass(frozen=True, slots=True)
class CorpusReport:
    """What a look at every row found. Counts are of rows, or of documents where the name says so."""

    rows: int
    documents: int
    zero_rows: int
    rows_off_unit: int
    short_documents: int

    def lines(self, context_length: int) -> list[str]:
        """Return one line for the totals and one per thing that a reader should know."""
        found = [f"{self.rows:,} vectors in {self.documents:,} documents"]
        if self.zero_rows:
            found.append(f"warning: {self.zero_rows:,} rows are zero; windows that touch them are left out")
        if self.rows_off_unit:
            found.append(
                f"warning: {self.rows_off_unit:,} rows are not of length 1 (±{UNIT_NORM_TOLERANCE}); "
                "--normalize divides each by its length"
            )
        if self.short_documents:
            found.append(
                f"note: {self.short_documents:,} documents have fewer than {context_length + 1} vectors "
                "and give no window"
            )
        return found


@dataclass(frozen=True, slots=True)
class Corpus:
    """Vectors `[N, D]` (float16 or float32, possibly memory-mapped) and ascending document ids `[N]`.

    `groups` `[N]` says what must stay on one side of a split: the documents, or for ready-cut windows the
    article they came from; None where the maker of the windows did not keep it. `process` is what
    made a synthetic corpus; it knows the best cosine that can be reached.
    """

    name: str
    vectors: NDArray[Any]
    doc_ids: NDArray[np.int64]
    groups: NDArray[np.int64] | None
    process: SyntheticProcess | None = None

    @property
    def dim(self) -> int:
        """D."""
        return int(self.vectors.shape[1])

    def starts(self, context_length: int) -> NDArray[np.int64]:
        """Return the first row `[n]` of every window of T + 1 rows that lies within one document."""
        span = context_length
        if len(self.doc_ids) <= span:
            return np.empty(0, np.int64)
        return np.flatnonzero(self.doc_ids[span:] == self.doc_ids[:-span]).astype(np.int64)

    def digest(self) -> str:
        """Return a short hash of shape, ids and a sample of rows, to tell whether two runs saw the same data."""
        sample = np.linspace(0, len(self.vectors) - 1, 256).astype(np.int64)
        digest = hashlib.sha256(repr((self.vectors.shape, str(self.vectors.dtype))).encode())
        digest.update(np.ascontiguousarray(self.doc_ids).tobytes())
        digest.update(np.ascontiguousarray(self.vectors[sample]).tobytes())
        return digest.hexdigest()[:16]


def load_corpus(
    name: str,
    *,
    windows: int = 80_000,
    dim: int = 768,
    seed: int = 0,
    context_length: int = 5,
    trust_pickle: bool = False,
) -> Corpus:
    """Return the corpus that `name` means: "bundled", "synthetic", or a path.

    `windows` and `dim` size the synthetic corpus, made from `seed`. Raises InvalidInput for a path that is missing
    or not a corpus; `trust_pickle` allows object arrays, which run code of the file's maker when they are read.
    """
    if name == "synthetic":
        process = SyntheticProcess(dim=dim)
        vectors, ids = process.sample(windows, context_length=context_length, seed=seed)
        return Corpus(name, vectors, ids, ids, process)
    path = BUNDLED if name == "bundled" else Path(name)
    raw: RawCorpus = read_corpus(path, trust_pickle=trust_pickle)
    return Corpus(name, raw.vectors, raw.doc_ids, raw.groups)


def check_corpus(
    corpus: Corpus, context_length: int, progress: Callable[[int], None] = lambda _: None
) -> tuple[CorpusReport, NDArray[np.bool_]]:
    """Look at every row once; return what was found and a mask `[N]` of rows that windows may use.

    Raises InvalidInput with the first row that holds a NaN or an infinity.
    """
    total = len(corpus.vectors)
    usable = np.ones(total, dtype=bool)
    off_unit = 0
    for begin in range(0, total, _BLOCK):
        block = np.asarray(corpus.vectors[begin : begin + _BLOCK], dtype=np.float32)
        norms = np.sqrt(np.einsum("nd,nd->n", block, block))
        if not np.isfinite(norms).all():
            row = begin + int(np.flatnonzero(~np.isfinite(norms))[0])
            raise InvalidInput(f"{corpus.name}: row {row} holds a NaN or an infinity; expected finite vectors")
        usable[begin : begin + _BLOCK] = norms > 0
        off_unit += int(((np.abs(norms - 1) > UNIT_NORM_TOLERANCE) & (norms > 0)).sum())
        progress(len(block))
    _, lengths = np.unique(corpus.doc_ids, return_counts=True)
    report = CorpusReport(
        rows=total,
        documents=len(lengths),
        zero_rows=int((~usable).sum()),
        rows_off_unit=off_unit,
        short_documents=int((lengths <= context_length).sum()),
    )
    return report, usable
