"""Where texts are cut. A token is a word here, or a piece of one."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvm_runtime.text.cutting import LONGEST, cut

TEXT = " ".join(f"Sentence number {i} says that water boils at {i} degrees." for i in range(60))


def spans(text: str, pattern: str = r"\w+|[^\w\s]") -> np.ndarray:
    """Return the first and end characters `[n, 2]` of what the pattern finds."""
    return np.array([match.span() for match in re.finditer(pattern, text)], np.int64).reshape(-1, 2)


def test_chunks_end_with_sentences_and_keep_every_word() -> None:
    found = cut(TEXT, spans(TEXT), 50)
    assert " ".join(found) == TEXT
    assert all(chunk.endswith(".") for chunk in found)
    assert all(25 <= len(spans(chunk)) <= 50 for chunk in found[:-1])


def test_a_short_rest_shortens_the_chunk_before_it() -> None:
    words = "word " * 110
    assert [len(spans(chunk)) for chunk in cut(words, spans(words), 100)] == [55, 55]


def test_overlap_repeats_whole_sentences_where_it_can() -> None:
    found = cut(TEXT, spans(TEXT), 50, overlap=15)
    for before, after in pairwise(found):
        first = re.split(r"(?<=\.) ", after)[0]
        assert first.startswith("Sentence")
        assert before.endswith(first)


def test_a_paragraph_is_a_border_and_its_break_stays_in_the_text() -> None:
    text = "One two three\n\nfour five six seven"
    assert cut(text, spans(text), 4) == ["One two three", "four five six seven"]
    assert cut(text, spans(text), 9) == [text]


@pytest.mark.parametrize("text", ["x" * 200_000, "今天天气很好" * 500], ids=["one token", "no spaces"])
def test_text_without_spaces_is_cut_by_characters(text: str) -> None:
    found = cut(text, spans(text), 10)
    assert "".join(found) == text
    assert max(map(len, found)) <= 10 * LONGEST


@settings(max_examples=200, deadline=None)
@given(st.text("ab .。\n", max_size=300), st.integers(1, 12))
def test_nothing_is_lost_and_no_chunk_is_too_long(text: str, most: int) -> None:
    found = cut(text, spans(text), most)
    assert all(0 < len(spans(chunk)) <= most for chunk in found)
    assert "".join("".join(found).split()) == "".join(text.split())


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 200), st.integers(2, 40), st.integers(1, 20), st.integers(1, 9))
def test_chunks_that_overlap_hold_all_words_and_share_no_more_than_asked(
    count: int, most: int, overlap: int, sentence: int
) -> None:
    text = " ".join(f"{i}." if i % sentence == 0 else f"{i}" for i in range(count))
    overlap = min(overlap, most // 2)
    found = [list(map(int, re.findall(r"\d+", chunk))) for chunk in cut(text, spans(text, r"\d+\.?"), most, overlap)]
    assert sorted({i for chunk in found for i in chunk}) == list(range(count))
    for before, after in pairwise(found):
        assert before[0] < after[0] <= before[-1] + 1
        assert (len(before) > 1) <= len(set(before) & set(after)) <= overlap
        assert before[-1] < after[-1], "a chunk that says nothing new"


@pytest.mark.parametrize(("sentence", "words"), [(8, 55), (16, 100), (4, 30)])
def test_a_chunk_that_overlaps_goes_on_beyond_the_one_before_it(sentence: int, words: int) -> None:
    text = " ".join(f"{i}." if i % sentence == sentence - 1 else f"{i}" for i in range(words))
    found = [re.findall(r"\d+", chunk) for chunk in cut(text, spans(text, r"\d+\.?"), 16, 8)]
    lasts = [int(chunk[-1]) for chunk in found]
    assert lasts == sorted(set(lasts))
    assert lasts[-1] == words - 1
    assert all(len(chunk) <= 16 for chunk in found)
