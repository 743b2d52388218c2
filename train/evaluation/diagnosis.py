"""What a corpus offers to learn from, found in seconds before a model is trained for hours.

N vectors, n windows, T context length, D vector.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lvm_runtime.corpus.corpus import Corpus
from lvm_runtime.corpus.documents import run_begins
from lvm_runtime.errors import InvalidInput
from lvm_runtime.text.encoder import SAME

from ..data.windows import VectorStore, WindowSet

SAMPLE = 20_000
COMPARED = 200
"""Held-out windows that are compared with the training vectors."""

_BLOCK = 65_536

BAD, GOOD = (0.353, 0.015), (0.457, 0.117)
"""Coherence and signal by position of two corpora of Wikipedia chunks of the reference implementation: all its models
learnt the previous vector from the one, and the next from the other."""

LEAST_SIGNAL = 0.04
LEAST_COHERENCE = 0.05  # of neighbours above that of random pairs


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Figures of a corpus; cosines are means over an evenly spaced sample.

    `coherence`: of neighbours in a document; `random_pairs`: of vectors of different documents; `by_position` `[T]`:
    of the target and the context vector at that position, oldest first; `duplicates`: share of rows that occurred
    before, to the bit; `lengths`: least, quartiles and greatest number of vectors in a document.
    """

    vectors: int
    documents: int
    windows: int
    coherence: float
    random_pairs: float
    by_position: tuple[float, ...]
    duplicates: float
    lengths: tuple[int, ...]
    short_documents: float

    @property
    def signal(self) -> float:
        """The cosine of the last position to the target less that of the first."""
        return self.by_position[-1] - self.by_position[0] if self.by_position else float("nan")

    def warnings(self) -> list[str]:
        """Return a line for each sign that there is nothing to learn."""
        found = []
        if self.coherence - self.random_pairs < LEAST_COHERENCE:
            found.append(
                f"WARNING: neighbours are hardly more alike ({self.coherence:.3f}) than vectors of different documents "
                f"({self.random_pairs:.3f}): the rows are not in document order, or the chunks have no common topic"
            )
        if len(self.by_position) > 1 and self.signal < LEAST_SIGNAL:
            found.append(
                f"WARNING: NOTHING TO LEARN FROM ORDER: the last position says only {self.signal:+.3f} more of the "
                f"next vector than the first ({BAD[1]:+.3f} in a corpus whose models learnt the past, {GOOD[1]:+.3f} "
                "in one that worked); check chunk size and order before training"
            )
        if self.duplicates > 0.05:
            found.append(
                f"WARNING: {self.duplicates:.1%} of the rows are copies of earlier ones: a search finds either"
            )
        if self.short_documents > 0.5:
            found.append(f"WARNING: {self.short_documents:.0%} of the documents are too short to give a window")
        return found

    def lines(self) -> list[str]:
        """Return the figures, with those of a bad and a good corpus beside them, and the warnings."""
        least, low, middle, high, most = self.lengths
        positions = ", ".join(f"{value:.3f}" for value in self.by_position)
        return [
            f"  coherence of neighbours {self.coherence:.3f} (bad {BAD[0]}, good {GOOD[0]}); "
            f"of random pairs {self.random_pairs:.3f}",
            f"  signal by position {self.signal:+.3f} (bad {BAD[1]:+}, good {GOOD[1]:+}); "
            f"cosine to the next by position {positions}",
            f"  duplicates {self.duplicates:.2%}; documents of {least} to {most} vectors, quartiles {low}, {middle}, "
            f"{high}; {self.short_documents:.1%} too short for a window",
            *(f"  {warning}" for warning in self.warnings()),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {"signal": self.signal, "warnings": self.warnings()}


def diagnose(corpus: Corpus, store: VectorStore, context_length: int) -> Diagnosis:
    """Look at the whole corpus for duplicates and lengths, and at a sample of its windows for the rest.

    Raises InvalidInput for a corpus without vectors.
    """
    if not len(corpus.values):
        raise InvalidInput(f"{corpus.name}: holds no vectors, so there is nothing to look at")
    starts, ids = corpus.starts(context_length + 1), corpus.document_ids
    windows = WindowSet(store, torch.from_numpy(starts).to(store.device), starts, context_length)
    lengths = np.diff(run_begins(ids), append=len(ids))
    coherence, random_pairs = _coherence(ids, store)
    return Diagnosis(
        vectors=len(corpus.values),
        documents=len(lengths),
        windows=len(starts),
        coherence=coherence,
        random_pairs=random_pairs,
        by_position=_by_position(windows.sample(SAMPLE)),
        duplicates=_duplicates(corpus.values),
        lengths=tuple(int(v) for v in np.percentile(lengths, [0, 25, 50, 75, 100])),
        short_documents=float((lengths <= context_length).mean()),
    )


def _coherence(ids: NDArray[Any], store: VectorStore) -> tuple[float, float]:
    """Return the mean cosine of neighbours in a document and of rows of different documents, half a corpus apart."""
    total = len(ids)
    neighbours = np.flatnonzero(ids[1:] == ids[:-1])
    rows = np.linspace(0, total - 1, min(SAMPLE, total)).astype(np.int64)
    far = (rows + total // 2) % total
    apart = ids[rows] != ids[far]
    return _cosine(store, _spaced(neighbours), 1 + _spaced(neighbours)), _cosine(store, rows[apart], far[apart])


def _spaced(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return rows[np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(np.int64)]


def _cosine(store: VectorStore, a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    if not len(a):
        return float("nan")
    left, right = (store.rows(torch.from_numpy(rows).to(store.device)) for rows in (a, b))
    return float(F.cosine_similarity(left, right, dim=1).cpu().double().mean())


def _by_position(windows: WindowSet) -> tuple[float, ...]:
    if not len(windows):
        return ()
    parts = []
    for starts in windows.batches(2048):
        contexts, targets = windows.batch(starts)
        parts.append(F.cosine_similarity(contexts, targets.unsqueeze(1), dim=2))
    return tuple(torch.cat(parts).cpu().double().mean(dim=0).tolist())


def copied(vectors: NDArray[Any], train: WindowSet, *held: WindowSet) -> list[float]:
    """Return for each of `held` the share of windows whose target and most of whose context training windows hold.

    To the bit, and in any order: so a document of which some vectors were changed or left out is found too.
    """
    hashes = _hashes(vectors)
    steps = np.arange(train.context_length + 1)
    trained = np.zeros(len(hashes), bool)
    trained[train.starts.cpu().numpy()[:, None] + steps] = True
    known = np.isin(hashes, hashes[trained])
    found = [known[windows.starts.cpu().numpy()[:, None] + steps] for windows in held]  # [n, T + 1] each
    return [float((k[:, -1] & _most(k[:, :-1].sum(axis=1), train)).mean()) if len(k) else 0.0 for k in found]


def _most(count: Any, windows: WindowSet) -> Any:
    """Say where `count` is more than half of the vectors of a context."""
    return 2 * count > windows.context_length


@torch.no_grad()
def nearly_copied(train: WindowSet, held: WindowSet) -> float:
    """Return the share that `copied` does, of an evenly spaced sample of `held`; vectors may be nearly the same.

    An encoder that meets a text twice, in other batches or at another precision, gives two vectors that differ in their
    last digits. Only windows whose target has a copy are looked at further, so this costs a search for 200 vectors.
    """
    starts = held.sample(COMPARED).starts
    if not len(starts):
        return 0.0
    trained = torch.zeros(len(train.store), dtype=torch.bool, device=starts.device)
    for offset in range(train.context_length + 1):
        trained[train.starts + offset] = True
    rows = trained.nonzero()[:, 0]
    left = starts[_nearly_among(train.store, rows, starts + train.context_length)]
    count = torch.zeros_like(left)
    for offset in range(train.context_length if len(left) else 0):
        count += _nearly_among(train.store, rows, left + offset)
    return int(_most(count, train).sum()) / len(starts)


def _nearly_among(store: VectorStore, rows: Tensor, asked: Tensor) -> Tensor:
    """Say for each row of `asked` `[q]` whether the vector of one of `rows` is nearly the same."""
    queries = F.normalize(store.rows(asked), dim=1)
    nearest = torch.full((len(asked),), -torch.inf, device=asked.device)
    for part in rows.split(_BLOCK):
        candidates = F.normalize(store.rows(part), dim=1)
        nearest = torch.maximum(nearest, (queries @ candidates.T).amax(dim=1))
    return nearest >= SAME


def _duplicates(vectors: NDArray[Any]) -> float:
    """Return the share of rows that occurred before."""
    return 1 - len(np.unique(_hashes(vectors))) / max(len(vectors), 1)


def _hashes(vectors: NDArray[Any]) -> NDArray[np.uint64]:
    """Return a 64-bit hash of the bytes of each row `[N]`."""
    words = -(-vectors.shape[1] * vectors.dtype.itemsize // 8)
    factors = np.random.default_rng(0).integers(1, 2**63, size=words, dtype=np.uint64) | np.uint64(1)
    hashes = np.empty(len(vectors), np.uint64)
    for begin in range(0, len(vectors), _BLOCK):
        block = np.ascontiguousarray(vectors[begin : begin + _BLOCK])
        padded = np.zeros((len(block), words * 8), np.uint8)
        padded[:, : block.shape[1] * block.dtype.itemsize] = block.view(np.uint8).reshape(len(block), -1)
        mixed = padded.view(np.uint64)
        mixed ^= mixed >> np.uint64(29)  # floats that are powers of two have zeros in their low bits
        hashes[begin : begin + _BLOCK] = (mixed * factors).sum(axis=1, dtype=np.uint64)
    return hashes
