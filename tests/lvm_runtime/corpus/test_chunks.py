"""The texts behind the vectors: the same from every kind of file, and read for the rows asked for only."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvm_runtime.corpus.chunks import Chunk
from lvm_runtime.corpus.corpus import open_corpus
from lvm_runtime.corpus.parquet import ParquetFile
from lvm_runtime.corpus.write import Part, write_corpus
from lvm_runtime.errors import InvalidInput
from tests.fuzzing import quick_settings

TEXTS = ["Wasser kocht.", "", "🙂 zwei\nZeilen", "Käse", "fünf"]
FILES = ["b.txt", "ä.md"]
IDS = np.array([0, 0, 0, 1, 1], np.int32)
VECTORS = np.eye(5, 8, dtype=np.float16)
MADE = {"encoder": "e", "tokens": 7}
EXPECTED = [Chunk(i, FILES[IDS[i]], [0, 1, 2, 0, 1][i], TEXTS[i]) for i in range(5)]


def _parts() -> list[Part]:
    return [Part(0, VECTORS[:2], TEXTS[:2]), Part(0, VECTORS[2:3], TEXTS[2:3]), Part(1, VECTORS[3:], TEXTS[3:])]


def _packed() -> dict[str, Any]:
    encoded = [text.encode() for text in TEXTS]
    ends = np.cumsum([len(text) for text in encoded])
    return {"texts": np.frombuffer(b"".join(encoded), np.uint8), "text_ends": ends, "files": FILES}


def _npy(folder: Path) -> Path:
    np.save(folder / "c.npy", VECTORS)
    np.save(folder / "c.ids.npy", IDS)
    np.savez(folder / "c.chunks.npz", **_packed())
    return folder / "c.npy"


def _saved(save: Any, **arrays: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        save(folder / "c.npz", vectors=VECTORS, **arrays)
        return folder / "c.npz"

    return write


def _parquet(folder: Path) -> Path:
    names = pa.array([FILES[i] for i in IDS]).dictionary_encode()
    pq.write_table(pa.table({"vector": list(VECTORS), "doc_id": names, "text": TEXTS}), folder / "c.parquet", 2)
    return folder / "c.parquet"


def _written(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        write_corpus(folder / name, _parts, 8, FILES, MADE)
        return folder / name

    return write


KINDS = {
    "npz of strings": _saved(np.savez, texts=np.array(TEXTS), doc_ids=np.array(FILES)[IDS]),
    "npz compressed": _saved(np.savez_compressed, doc_ids=IDS, **_packed()),
    "npy with chunks beside it": _npy,
    "parquet": _parquet,
    "npz of ours": _written("c.npz"),
    "parquet of ours": _written("c.parquet"),
}


@pytest.mark.parametrize("write", KINDS.values(), ids=KINDS.keys())
def test_chunks_come_back_for_any_rows_in_any_order(write: Callable[[Path], Path], tmp_path: Path) -> None:
    corpus = open_corpus(write(tmp_path), context_length=2)
    assert corpus.chunks(np.arange(5)) == EXPECTED
    assert corpus.chunks(np.array([4, 1, 1, 0])) == [EXPECTED[i] for i in (4, 1, 1, 0)]
    assert corpus.chunks(np.array([], np.int64)) == []
    assert corpus.starts(3).tolist() == [0]  # the documents are what they were


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_never_those_of_a_file_that_took_the_corpus_place(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    corpus = open_corpus(KINDS[kind](Path()), context_length=2)
    for file in list(tmp_path.iterdir()):
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / file.name).write_bytes(file.read_bytes().replace("Käse".encode(), b"Tofu!"))
        (tmp_path / "other" / file.name).replace(file)
    monkeypatch.chdir("/")
    if kind in ("npz compressed", "parquet", "parquet of ours"):
        with pytest.raises(InvalidInput, match="was changed, or replaced by another file, since it was opened"):
            corpus.chunks(np.arange(5))
    else:
        assert corpus.chunks(np.arange(5)) == EXPECTED


@pytest.mark.parametrize("kind", [".npz", ".parquet"])
@quick_settings(25)
@given(
    st.lists(st.tuples(st.booleans(), st.lists(st.text(max_size=9), min_size=1, max_size=4)), min_size=1, max_size=6)
)
def test_what_is_written_is_read_back(kind: str, tmp_path: Path, drawn: list[tuple[bool, list[str]]]) -> None:
    """Parts of any texts, each of the document of the part before it or of the next one."""
    rng = np.random.default_rng(len(drawn))
    parts: list[Part] = []
    for new, texts in drawn:
        document = parts[-1].document + new if parts else 0
        parts.append(Part(document, rng.standard_normal((len(texts), 8)).astype(np.float16), texts))
    files = [f"{i}.txt" for i in range(parts[-1].document + 1)]
    path = tmp_path / f"corpus{kind}"
    write_corpus(path, lambda: parts, 8, files, MADE)
    corpus = open_corpus(path, context_length=5)
    np.testing.assert_array_equal(np.asarray(corpus.values), np.concatenate([part.vectors for part in parts]))
    chunks = corpus.chunks(np.arange(len(corpus.values)))
    rows = [(part.document, text.encode("utf-8", "replace").decode()) for part in parts for text in part.texts]
    assert [(files.index(chunk.document), chunk.text) for chunk in chunks] == rows
    documents = [document for document, _ in rows]
    assert [chunk.position for chunk in chunks] == [i - documents.index(d) for i, d in enumerate(documents)]


@pytest.mark.parametrize("name", ["c.npz", "c.parquet"])
def test_what_is_written_is_the_same_to_the_bit_and_says_how_it_was_made(name: str, tmp_path: Path) -> None:
    first, second = _written(name)(tmp_path), tmp_path / f"second{Path(name).suffix}"
    write_corpus(second, _parts, 8, FILES, MADE)
    assert first.read_bytes() == second.read_bytes()
    corpus = open_corpus(first, context_length=2)
    assert corpus.columns.made == MADE
    assert np.array_equal(corpus.values, VECTORS)


@pytest.mark.parametrize("name", ["c.npz", "c.parquet"])
def test_files_whose_names_are_no_text_are_documents_of_their_own(name: str, tmp_path: Path) -> None:
    write_corpus(tmp_path / name, _parts, 8, [os.fsdecode(b"a\xff"), os.fsdecode(b"a\xfe")], MADE)
    assert open_corpus(tmp_path / name, context_length=2).starts(3).tolist() == [0]


def test_a_corpus_without_texts_still_has_documents_and_places(tmp_path: Path) -> None:
    corpus = open_corpus(_saved(np.savez, doc_ids=IDS + 7)(tmp_path), context_length=2)
    assert corpus.chunks(np.array([1, 3])) == [Chunk(1, "7", 1, None), Chunk(3, "8", 0, None)]


def test_a_look_at_ten_texts_reads_few_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count, rows = 20_000, np.arange(0, 20_000, 2_000)
    parts = [Part(0, np.ones((250, 8), np.float16), [f"{i} ".ljust(500) for i in range(j, j + 250)])
             for j in range(0, count, 250)]  # fmt: skip
    for name in ("c.npz", "c.parquet"):
        write_corpus(tmp_path / name, lambda: parts, 8, ["a"], {})
    read: list[int] = []
    batches = ParquetFile._batches

    def counted(*arguments: Any, **options: Any) -> Any:
        for first, values in batches(*arguments, **options):
            read.append(len(values))
            yield first, values

    monkeypatch.setattr(ParquetFile, "_batches", counted)
    for name in ("c.npz", "c.parquet"):
        corpus = open_corpus(tmp_path / name, context_length=2)
        read.clear()
        tracemalloc.start()
        texts = [chunk.text for chunk in corpus.chunks(rows[:2])]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert [int(text or "") for text in texts] == [0, 2_000]
        assert peak < 2e6  # all texts are 10 MB
        assert sum(read) < 5_000


BAD = {
    "too few": ({"texts": np.array(["a"] * 4)}, r"texts holds \[4\] texts, expected \[5\]"),
    "numbers": ({"texts": np.zeros(5)}, "texts has dtype float64, expected strings"),
    "objects": ({"texts": np.array([*"abcd", None], object)}, "texts has dtype object, expected strings"),
    "ends": (_packed() | {"text_ends": np.arange(3)}, r"texts holds \[3\] texts"),
    "ends that are no whole numbers": (_packed() | {"text_ends": np.linspace(0, 9, 5)}, "expected strings, or UTF-8"),
    "files that are no list": ({"files": np.float32(3)}, r"files is float32 \[\], expected a list of strings"),
}


@pytest.mark.parametrize(("arrays", "message"), BAD.values(), ids=BAD.keys())
def test_texts_that_do_not_fit_are_refused_at_once(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=message):
        open_corpus(_saved(np.savez, doc_ids=IDS, **arrays)(tmp_path), context_length=2)


@pytest.mark.parametrize("end", [-1, 2, 10**6], ids=["below", "before-the-last", "beyond"])
def test_texts_that_end_nowhere_are_not_taken_for_empty(end: int, tmp_path: Path) -> None:
    packed = _packed()
    packed["text_ends"][3] = end
    corpus = open_corpus(_saved(np.savez, **packed)(tmp_path), context_length=2)
    with pytest.raises(InvalidInput, match="text_ends of row 3 is out of order, or beyond"):
        corpus.chunks(np.array([0, 3]))


def test_what_says_nonsense_about_itself_was_not_made_by_us(tmp_path: Path) -> None:
    for made in ("{", "[1]", json.dumps("x")):
        assert open_corpus(_saved(np.savez, made=made)(tmp_path), context_length=2).columns.made is None
