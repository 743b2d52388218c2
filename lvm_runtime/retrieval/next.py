"""The chunks that a model says come next.

n contexts, T context length, D vector, k hits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.arguments import instance, whole_number
from lvm_runtime.contexts import Contexts
from lvm_runtime.corpus.chunks import Chunk
from lvm_runtime.errors import InvalidInput
from lvm_runtime.predictor import Predictor
from lvm_runtime.retrieval.exact import unit_rows
from lvm_runtime.retrieval.index import Index
from lvm_runtime.text.encoder import same_probe

COPY = 0.9999
"""From this cosine to a chunk of the context on, a chunk is a copy of it, which its reader has."""


@dataclass(frozen=True, slots=True)
class Found:
    """A chunk and the cosine of its vector to what was searched for.

    >>> from lvm_runtime.corpus.chunks import Chunk
    >>> Found(Chunk(row=7, document="a.txt", position=2, text="Water boils."), score=0.75).chunk.document
    'a.txt'
    """

    chunk: Chunk
    score: float


def next_chunks(predictor: Predictor, index: Index, contexts: Any, k: int = 5) -> list[list[Found]]:
    """Return for each context `[n, T, D]` the k chunks nearest to what the model predicts, the best first.

    Chunks of the context itself are left out. Fewer than k come back where the corpus has no more. Raises InvalidInput
    for what `Predictor.predict` refuses, and for an index of other vectors.

    >>> from lvm_runtime.retrieval import Index, next_chunks
    >>> index = Index.build("corpus.npz")
    >>> with Predictor("artifacts/amn") as predictor:
    ...     found = next_chunks(predictor, index, np.load("contexts.npy")[:2], k=3)
    >>> [len(hits) for hits in found]
    [3, 3]
    """
    instance(predictor, Predictor, "predictor")
    instance(index, Index, "index")
    array = _checked(predictor, index, contexts)
    return search_outside(index, predictor.predict(array), array, k)


def last_chunk_finds(predictor: Predictor, index: Index, contexts: Any, k: int = 5) -> list[list[Found]]:
    """Return what a search with the last vector of each context finds, without a model, as `next_chunks` does."""
    array = _checked(predictor, index, contexts)
    return search_outside(index, array[:, -1], array, k)


def search_outside(index: Index, queries: NDArray[Any], contexts: NDArray[Any], k: int) -> list[list[Found]]:
    """Return the k chunks nearest to each query `[n, D]` that are no copies of its context `[n, T, D]`.

    Raises InvalidInput for a query that is zero.
    """
    count = len(index.corpus.values)
    k = min(whole_number(k, "k"), count)
    zero = np.flatnonzero(~queries.any(axis=1))
    if len(zero):
        raise InvalidInput(
            f"context {zero[0]}: what is to be searched for is a zero vector, which has no direction; leave it out"
        )
    contexts, found = unit_rows(contexts), []
    for query, context in zip(queries, contexts, strict=True):
        wanted = k + 2 * len(context)
        while True:
            hits = index.search(query[None], min(wanted, count))
            new = ~_copies(index.vectors(hits.rows[0]), context)
            if new.sum() >= k or wanted >= count:
                break
            wanted *= 2
        rows, scores = hits.rows[0][new][:k], hits.scores[0][new][:k]
        chunks = index.corpus.chunks(rows)
        found.append([Found(chunk, float(score)) for chunk, score in zip(chunks, scores, strict=True)])
    return found


def _copies(vectors: NDArray[np.float32], context: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Say which of `vectors` `[n, D]` are copies of one of `context` `[T, D]`, all of length 1 or 0."""
    alike: NDArray[np.bool_] = (vectors @ context.T).max(axis=1) >= COPY
    if context.any(axis=1).all():
        return alike
    return alike | ~vectors.any(axis=1)  # zeros are alike, and no cosine says so


def _checked(predictor: Predictor, index: Index, contexts: Any) -> NDArray[np.float32]:
    """Return contexts `[n, T, D]`, one `[T, D]` as `[1, T, D]`, that model and index take."""
    config = predictor.config
    if index.corpus.dim != config.dim:
        raise InvalidInput(
            f"{index.path}: vectors of D={index.corpus.dim}, the model {predictor.artifact.path} has D={config.dim}; "
            "give the index of the corpus that it was trained on, or one of the same encoder"
        )
    _require_one_encoder(predictor, index)
    return Contexts(contexts, config.context_length, config.dim, predictor.largest_norm).copy()


def _require_one_encoder(predictor: Predictor, index: Index) -> None:
    """Raise InvalidInput if model and corpus both say which encoder made their vectors, and it is not the same one."""
    data = predictor.artifact.manifest.provenance.get("data")
    trained, made = data.get("made") if isinstance(data, dict) else None, index.corpus.columns.made
    if not isinstance(trained, dict) or not made or not made.get("probe"):
        return
    if not same_probe(trained.get("probe"), made["probe"]):
        raise InvalidInput(
            f"{index.path}: vectors of the encoder {made.get('encoder')}, the model {predictor.artifact.path} was "
            f"trained on those of {trained.get('encoder')}; give the index of a corpus of that encoder"
        )
