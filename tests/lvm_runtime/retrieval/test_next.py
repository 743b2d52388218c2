"""What comes next: the chunk that was planted where the model points, and never the context itself."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from lvm_runtime import Predictor
from lvm_runtime.commands.main import main
from lvm_runtime.commands.next import _read_stdin
from lvm_runtime.corpus.write import Part, write_corpus
from lvm_runtime.errors import InvalidInput
from lvm_runtime.retrieval import Index, next_chunks
from lvm_runtime.retrieval.next import last_chunk_finds
from tests.artifacts import edit_manifest, make_artifact, some_contexts

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


def test_a_context_that_is_there_many_times_does_not_hide_what_is_not(
    asked: tuple[Predictor, Index, np.ndarray], tmp_path: Path
) -> None:
    predictor, index, contexts = asked
    others = index.vectors(np.arange(len(index.corpus.values) - 200, len(index.corpus.values)))
    np.save(tmp_path / "c.npy", np.concatenate([np.tile(contexts[0], (40, 1)), others]))
    (hits,) = last_chunk_finds(predictor, Index.build(tmp_path / "c.npy"), contexts[0], 3)
    nearest = np.argsort(-(others @ contexts[0, -1]))[:3]
    assert [hit.chunk.row for hit in hits] == (nearest + 40 * T).tolist()


def test_a_chunk_of_zeros_in_the_context_is_left_out_too(
    asked: tuple[Predictor, Index, np.ndarray], tmp_path: Path
) -> None:
    predictor, _, contexts = asked
    vectors = np.concatenate([contexts[0], np.zeros((2, D), np.float32), contexts[1]])
    np.save(tmp_path / "z.npy", vectors)
    index = Index.build(tmp_path / "z.npy")
    for find in (next_chunks, last_chunk_finds):
        for begin, zeros in ((0, False), (3, True), (5, True)):
            if find is last_chunk_finds and not vectors[begin + T - 1].any():
                continue
            (hits,) = find(predictor, index, vectors[begin : begin + T], 100)
            own = {*range(begin, begin + T)} | ({T, T + 1} if zeros else set())
            assert {hit.chunk.row for hit in hits} == set(range(len(vectors))) - own


def test_a_context_that_leaves_nothing_to_search_for_is_named(asked: tuple[Predictor, Index, np.ndarray]) -> None:
    predictor, index, contexts = asked
    contexts[2, -1] = 0
    with pytest.raises(InvalidInput, match=r"^context 2: what is to be searched for is a zero vector"):
        last_chunk_finds(predictor, index, contexts, 3)
    assert len(next_chunks(predictor, index, contexts, 3)) == 4


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_command_tells_the_answers_to_several_contexts_apart(
    asked: tuple[Predictor, Index, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    predictor, index, contexts = asked
    np.save(tmp_path / "v.npy", contexts[:count])
    command = ["next", str(tmp_path / "amn"), "--backend", "eager", "--vectors", str(tmp_path / "v.npy"), "-k", "2"]
    command += ["--index", str(tmp_path / "c.npz"), "--compare"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for name, find in (("next", next_chunks), ("last_chunk", last_chunk_finds)):
        wanted = [[hit.chunk.row for hit in hits] for hits in find(predictor, index, contexts[:count], 2)]
        assert [[hit["row"] for hit in of_one[name]] for of_one in found] == wanted
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("context ")] == [f"context {i}" for i in range(count)]


def test_what_cannot_be_asked_is_refused(asked: tuple[Predictor, Index, np.ndarray], tmp_path: Path) -> None:
    predictor, index, contexts = asked
    with pytest.raises(InvalidInput, match=r"^k is 0, expected"):
        next_chunks(predictor, index, contexts, 0)
    np.save(tmp_path / "other.npy", np.ones((9, 8), np.float32))
    with pytest.raises(InvalidInput, match=r"vectors of D=8, the model .* has D=16"):
        next_chunks(predictor, Index.build(tmp_path / "other.npy"), contexts)
    with pytest.raises(InvalidInput, match=r"^index is 'other\.npy', expected a"):
        next_chunks(predictor, "other.npy", contexts)  # type: ignore[arg-type]


@pytest.mark.parametrize("same", [True, False])
def test_an_index_of_another_encoder_than_the_models_is_refused(
    asked: tuple[Predictor, Index, np.ndarray], tmp_path: Path, same: bool
) -> None:
    predictor, index, contexts = asked
    path = predictor.artifact.path
    probes = np.linalg.qr(np.random.default_rng(0).standard_normal((D, D)))[0].tolist()
    edit_manifest(path, lambda m: m["provenance"].update(data={"made": {"encoder": "theirs", "probe": probes[0]}}))
    made = {"encoder": "ours", "probe": probes[0 if same else 1]}
    vectors = index.vectors(np.arange(9)).astype(np.float16)
    write_corpus(tmp_path / "d.npz", lambda: [Part(0, vectors, ["text"] * 9)], D, ["d"], made)
    other = Index.build(tmp_path / "d.npz")
    with Predictor(path, backend="eager") as trained:
        for find in (next_chunks, last_chunk_finds):
            assert len(find(trained, index, contexts)) == 4  # whose corpus does not say
            if same:
                assert len(find(trained, other, contexts)) == 4
            else:
                with pytest.raises(InvalidInput, match=r"encoder ours, the model .*amn was trained on those of theirs"):
                    find(trained, other, contexts)
        assert len(next_chunks(predictor, other, contexts)) == 4  # whose model does not


def test_the_command_prints_json_whatever_is_in_the_texts(
    asked: tuple[Predictor, Index, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["a\u00a0b \u00ad \x1b[31m \u2028 \U0001f600 é"] * 9
    vectors = np.random.default_rng(0).standard_normal((9, D)).astype(np.float32)
    np.savez(tmp_path / "t.npz", vectors=vectors, texts=np.array(texts))
    Index.build(tmp_path / "t.npz")
    np.save(tmp_path / "v.npy", vectors[:T] + 1)
    command = ["next", str(tmp_path / "amn"), "--backend", "eager", "--vectors", str(tmp_path / "v.npy"), "--json"]
    assert main([*command, "--index", str(tmp_path / "t.npz")]) == 0
    assert json.loads(capsys.readouterr().out)["next"][0]["text"] == texts[0]


def test_the_last_window_of_a_file_is_one_of_its_last_document(
    asked: tuple[Predictor, Index, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "v.npz", vectors=some_contexts(3).reshape(15, D), doc_ids=np.repeat([0, 1], [12, 3]))
    command = ["next", str(tmp_path / "amn"), "--backend", "eager", "--vectors", str(tmp_path / "v.npz")]
    assert main([*command, "--index", str(tmp_path / "c.npz")]) == 1
    assert "3 vectors in the last document, expected at least the 5" in capsys.readouterr().err


def test_a_text_that_is_no_text_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe"), encoding="utf-8"))
    with pytest.raises(InvalidInput, match="stdin: cannot be read as utf-8 text"):
        _read_stdin()
    monkeypatch.setattr("sys.stdin", None)  # of a program that was started with `<&-`
    with pytest.raises(InvalidInput, match="stdin: is closed; give a text there"):
        _read_stdin()
