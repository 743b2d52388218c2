"""Corpora: what is bundled, what a look at the rows finds, and where windows are cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lvm_runtime.corpus.chunks import ChunkColumns
from lvm_runtime.corpus.corpus import BUNDLED, Corpus, of_documents
from lvm_runtime.errors import InvalidInput
from train.data.corpus import CorpusReport, check_corpus, load_corpus


def make(lengths: list[int], dim: int = 8, seed: int = 0) -> Corpus:
    """Return a corpus of documents of the given lengths with random unit vectors."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((sum(lengths), dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = np.repeat(np.arange(len(lengths)), lengths)
    return of_documents("test", vectors, ids)


def test_bundled_corpus_is_whole_documents_within_its_size() -> None:
    corpus = load_corpus("bundled")
    report, usable = check_corpus(corpus, 5)
    assert BUNDLED.stat().st_size <= 4_000_000
    assert (report.documents, report.zero_rows, report.rows_off_unit) == (204, 0, 0)
    assert usable.all()
    assert len(corpus.starts(6)) == len(corpus.values) - 5 * report.documents - (
        sum(max(0, 5 - n) * -1 for n in np.unique(corpus.doc_ids, return_counts=True)[1])
    )


def test_windows_never_cross_documents() -> None:
    corpus = make([7, 3, 6, 5])
    assert corpus.starts(6).tolist() == [0, 1, 10]
    assert make([3]).starts(6).tolist() == []


def test_report_counts_what_is_odd() -> None:
    corpus = make([7, 3, 8])
    corpus.values[2] = 0
    corpus.values[4] *= 1.5
    report, usable = check_corpus(corpus, 5)
    assert (report.zero_rows, report.rows_off_unit, report.short_documents) == (1, 1, 1)
    assert np.flatnonzero(~usable).tolist() == [2]
    assert len(report.lines(5)) == 4


def test_report_counts_one_in_the_singular() -> None:
    one, two = (CorpusReport(count, count, count, count, count).lines(5) for count in (1, 2))
    assert [line.split(";")[0] for line in one] == [
        "1 vector in 1 document",
        "warning: 1 row is zero",
        "warning: 1 row is not of length 1 (±0.01)",
        "note: 1 document has fewer than 6 vectors, too few for a window",
    ]
    assert two[0] == "2 vectors in 2 documents"
    assert "2 rows are zero" in two[1]
    assert "2 documents have fewer" in two[3]


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=["nan", "inf"])
def test_value_that_is_no_number_names_its_row(value: float) -> None:
    corpus = make([7, 3])
    corpus.values[8, 1] = value
    with pytest.raises(InvalidInput, match=r"row 8, .*; expected finite values$"):
        check_corpus(corpus, 5)


@pytest.mark.parametrize(("largest", "advice"), [(1e6, "; --normalize divides each row by its length"), (1e18, "")])
def test_a_row_that_is_too_long_is_refused_with_its_norm(largest: float, advice: str) -> None:
    corpus = make([7, 3])
    corpus.values[8] *= largest * 0.999
    check_corpus(corpus, 5, largest_norm=largest)
    corpus.values[8] *= 1.01
    said = rf"^test: row 8 has norm 1\.01e\+\d+; expected at most {largest:g}{advice}$".replace("1e+", r"1e\+")
    with pytest.raises(InvalidInput, match=said):
        check_corpus(corpus, 5, largest_norm=largest)


def test_a_row_is_zero_only_if_all_of_it_is() -> None:
    corpus = make([7, 8])
    for row, length in ((1, 0.0), (3, 1e-31), (9, 0.9e-8), (11, 1.1e-8)):
        corpus.values[row] *= length
    report, usable = check_corpus(corpus, 5)
    assert (report.zero_rows, report.tiny_rows, report.rows_off_unit) == (1, 2, 1)
    assert np.flatnonzero(~usable).tolist() == [1, 3, 9]
    rows = torch.tensor(corpus.values[[9, 11]])
    assert torch.cosine_similarity(rows, rows, dim=1).tolist() == pytest.approx([0.81, 1.0]), "with themselves"
    assert "warning: 2 rows are shorter than 1e-08; windows that touch such a row are left out" in report.lines(5)


@pytest.mark.parametrize("overlap", [32, 0, None, "32"])
def test_chunks_that_overlap_are_warned_of(overlap: object) -> None:
    """Whatever a file says of itself."""
    corpus = replace(make([7, 8]), columns=ChunkColumns(made={"overlap": overlap}))
    warned = [line for line in check_corpus(corpus, 5)[0].lines(5) if "begins with up to 32 tokens" in line]
    assert len(warned) == (overlap == 32)


def test_digest_tells_data_apart(tmp_path: Path) -> None:
    corpus = make([5000, 4000])
    np.save(tmp_path / "corpus.npy", corpus.values)
    mapped = replace(corpus, values=np.load(tmp_path / "corpus.npy", mmap_mode="r"))
    assert mapped.digest() == corpus.digest() == make([5000, 4000]).digest()
    assert make([4000, 5000]).digest() != corpus.digest()
    assert replace(corpus, groups=np.zeros(9000, np.int64)).digest() != corpus.digest()
    for row in (0, 1, 4095, 4096, 8998):
        changed = corpus.values.copy()
        changed[row, 3] += 1e-6
        assert replace(corpus, values=changed).digest() != corpus.digest()


def test_a_misspelt_name_is_told_what_there_is() -> None:
    with pytest.raises(InvalidInput, match="bundeld: no such file; expected bundled, synthetic or the path"):
        load_corpus("bundeld")
