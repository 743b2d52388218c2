"""What comes next: the chunk that was planted where the model points, and never the context itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lvm_runtime import Predictor
from lvm_runtime.corpus.write import Part, write_corpus
from lvm_runtime.errors import InvalidInput
from lvm_runtime.retrieval import Index, next_chunks
from lvm_runtime.retrieval.next import last_chunk_finds
from tests.artifacts import make_artifact, some_contexts

D, T = 16, 5


@pytest.fixture
def asked(tmp_path: Path) -> tuple[Predictor, Index, np.ndarray]:
    """Return a model, an index in which what it predicts for each of 4 contexts is planted, and the contexts.

    The corpus holds the contexts too, twice, and 200 other vectors.
    """
    predictor = Predictor(make_artifact(tmp_path / "amn", "amn").path, backend="eager")
    contexts = some_contexts(4).astype(np.float32)
    planted = predictor.predict(contexts) + 0.01
    others = np.random.default_rng(3).standard_normal((200, D)).astype(np.float32)
    flat = contexts.reshape(-1, D)
    documents = [np.concatenate([flat, planted]), flat, others]
    parts = [
        Part(i, (v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float16), [f"{i} {j}" for j in range(len(v))])
        for i, v in enumerate(documents)
    ]
    write_corpus(tmp_path / "c.npz", lambda: parts, D, ["asked", "copy", "others"], {})
    return predictor, Index.build(tmp_path / "c.npz"), contexts


def test_it_finds_the_planted_successor(asked: tuple[Predictor, Index, np.ndarray]) -> None:
    predictor, index, contexts = asked
    found = next_chunks(predictor, index, contexts, 3)
    assert [hits[0].chunk.text for hits in found] == [f"0 {4 * T + i}" for i in range(4)]
    assert [hits[0].chunk.document for hits in found] == ["asked"] * 4
    assert all(hits[0].score > 0.99 > hits[1].score >= hits[2].score for hits in found)
    alone = next_chunks(predictor, index, contexts[2], 3)[0]
    assert [hit.chunk for hit in alone] == [hit.chunk for hit in found[2]]


def test_chunks_of_the_context_are_left_out_and_nothing_else_is(
    asked: tuple[Predictor, Index, np.ndarray],
) -> None:
    predictor, index, contexts = asked
    total = len(index.corpus.values)
    for find in (next_chunks, last_chunk_finds):
        for i, hits in enumerate(find(predictor, index, contexts, 10_000)):
            rows = {hit.chunk.row for hit in hits}
            own = {4 * T + 4 + i * T + j for j in range(T)} | {i * T + j for j in range(T)}
            assert rows == set(range(total)) - own


def test_an_index_of_another_dimension_is_refused(asked: tuple[Predictor, Index, np.ndarray], tmp_path: Path) -> None:
    predictor, _, contexts = asked
    np.save(tmp_path / "other.npy", np.ones((9, 8), np.float32))
    with pytest.raises(InvalidInput, match=r"vectors of D=8, the model .* has D=16"):
        next_chunks(predictor, Index.build(tmp_path / "other.npy"), contexts)
