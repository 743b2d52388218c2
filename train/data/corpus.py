"""The corpus of a training run, and what a look at its rows finds.

N vectors, T context length.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.backends.base import Backend
from lvm_runtime.contexts import describe_bad_row, is_usable
from lvm_runtime.corpus.corpus import BUNDLED, Corpus, joined, of_documents, open_corpus
from lvm_runtime.corpus.documents import run_begins
from lvm_runtime.errors import InvalidInput, counted

from .synthetic import SyntheticProcess

UNIT_NORM_TOLERANCE = 1e-2
"""A row further than this from length 1 is counted as not normalised; float16 rounding stays under 1e-3."""

LARGEST_NORM = Backend.largest_norm
"""What a Predictor takes in full precision, and so the longest row to train on as it is."""

LARGEST_SCALED = 1e18
"""The longest row whose length float32 can tell, so that it can be divided by it."""

SMALLEST_NORM = 1e-8
"""What torch's `cosine_similarity` divides by at least: with a shorter row it is smaller than the cosine."""

_BLOCK = 65_536  # rows read at a time: a mapped corpus never has to fit into memory


@dataclass(frozen=True, slots=True)
class CorpusReport:
    """What a look at every row found. Counts are of rows, or of documents where the name says so.

    `overlap`: tokens that a chunk has in common with the one before it, as `embed` made the corpus.
    """

    rows: int
    documents: int
    zero_rows: int
    rows_off_unit: int
    short_documents: int
    tiny_rows: int = 0
    overlap: int = 0

    def lines(self, context_length: int) -> list[str]:
        """Return one line for the totals and one per thing that a reader should know."""
        found = [f"{counted(self.rows, 'vector')} in {counted(self.documents, 'document')}"]
        if self.zero_rows:
            rows = counted(self.zero_rows, "row is", "rows are")
            found.append(f"warning: {rows} zero; windows that touch a zero row are left out")
        if self.tiny_rows:
            rows = counted(self.tiny_rows, "row is", "rows are")
            found.append(f"warning: {rows} shorter than {SMALLEST_NORM}; windows that touch such a row are left out")
        if self.rows_off_unit:
            rows = counted(self.rows_off_unit, "row is", "rows are")
            found.append(
                f"warning: {rows} not of length 1 (±{UNIT_NORM_TOLERANCE}); --normalize divides each by its length"
            )
        if self.overlap:
            tokens = counted(self.overlap, "token")
            found.append(
                f"WARNING: a chunk begins with up to {tokens} of the one before it, so a context holds the beginning "
                "of what it is to predict, which flatters all figures; embed the texts without --overlap"
            )
        if self.short_documents:
            documents = counted(self.short_documents, "document has", "documents have")
            found.append(f"note: {documents} fewer than {context_length + 1} vectors, too few for a window")
        return found


def load_corpus(
    name: str,
    *,
    windows: int = 80_000,
    dim: int = 768,
    seed: int = 0,
    context_length: int = 5,
    trust_pickle: bool = False,
) -> Corpus:
    """Return the corpus of vectors `[N, D]` that `name` means: "bundled", "synthetic", or a path.

    `windows` and `dim` size the synthetic corpus, made from `seed`. Raises InvalidInput for a path that is missing
    or not a corpus; `trust_pickle` allows object arrays, which run code of the file's maker when they are read.
    """
    if name == "synthetic":
        return of_documents(name, *SyntheticProcess(dim=dim).sample(windows, context_length=context_length, seed=seed))
    path = BUNDLED if name == "bundled" else Path(name)
    if not os.path.exists(path):
        raise InvalidInput(f"{name}: no such file; expected bundled, synthetic or the path of a corpus")
    return replace(joined(open_corpus(path, context_length=context_length, trust_pickle=trust_pickle)), name=name)


def check_corpus(
    corpus: Corpus,
    context_length: int,
    progress: Callable[[int], None] = lambda _: None,
    *,
    largest_norm: float = LARGEST_SCALED,
) -> tuple[CorpusReport, NDArray[np.bool_]]:
    """Look at every row once; return what was found and a mask `[N]` of rows that windows may use.

    Raises InvalidInput with the first row that holds a NaN or an infinity, or is longer than `largest_norm`.
    """
    total = len(corpus.values)
    usable = np.ones(total, dtype=bool)
    zero = off_unit = 0
    for begin in range(0, total, _BLOCK):
        original = corpus.values[begin : begin + _BLOCK]
        block = np.asarray(original, dtype=np.float32)
        if not is_usable(block, largest_norm):
            long = largest_norm < LARGEST_SCALED and np.isfinite(block).all()
            advice = "; --normalize divides each row by its length" if long else ""
            raise InvalidInput(f"{corpus.name}: {describe_bad_row(original, block, begin, largest_norm)}{advice}")
        norms = np.sqrt(np.einsum("nd,nd->n", block, block))
        kept = usable[begin : begin + _BLOCK] = norms >= SMALLEST_NORM
        zero += int((~block[~kept].any(axis=1)).sum())
        off_unit += int(((np.abs(norms - 1) > UNIT_NORM_TOLERANCE) & kept).sum())
        progress(len(block))
    lengths = np.diff(run_begins(corpus.document_ids), append=total)
    overlap = (corpus.columns.made or {}).get("overlap", 0)
    report = CorpusReport(
        rows=total,
        documents=len(lengths),
        zero_rows=zero,
        rows_off_unit=off_unit,
        short_documents=int((lengths <= context_length).sum()),
        tiny_rows=int((~usable).sum()) - zero,
        overlap=overlap if isinstance(overlap, int) else 0,
    )
    return report, usable
