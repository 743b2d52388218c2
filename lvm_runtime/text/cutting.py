"""Cut a text into chunks of so many tokens, at the ends of sentences where there are some.

n tokens of a text.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

LONGEST = 16
"""Characters of a token that count as one token; what is longer, such as a word that the tokenizer has no tokens for,
counts as several and may be cut."""

_SENTENCE_END = re.compile(r"(?<=[.!?])(?=\s)|(?<=[。！？])|\n\s*\n")
_WORD_BEGIN = re.compile(r"(?<=\s)\S")
_NOWHERE, _WORD, _SENTENCE = 0, 1, 2


def cut(text: str, tokens: NDArray[np.int64], most: int, overlap: int = 0) -> list[str]:
    """Return the chunks of `text`, each of at most `most` of its `tokens`, given as their first and end characters
    `[n, 2]`.

    A chunk ends with a sentence if one ends in its second half, else with a word if it can. A rest of less than a third
    of a chunk is avoided: the chunk before it is shorter. With `overlap` a chunk begins up to so many tokens before the
    end of the one before it, with a sentence or a word if it can; it always goes on beyond that end.
    """
    tokens = _divided(tokens)
    begins, total = tokens[:, 0], len(tokens)
    strength = _strengths(text, begins)
    chunks, first, end = [], 0, 0
    while end < total:
        left = total - first
        end = total if left <= most else _best_end(strength, first, end, left, most)
        chunks.append(text[begins[first] : tokens[end - 1, 1]].strip())
        first = _begin_before(strength, first, end, overlap) if overlap else end
    return chunks


def _best_end(strength: NDArray[np.int8], first: int, before: int, left: int, most: int) -> int:
    """Return the token before which the chunk that begins at `first` ends, of `left` tokens that are left.

    The chunk before it ended at `before`, and one that ends there too would only repeat it.
    """
    wanted = most if 3 * left > 4 * most else (left + 1) // 2
    window = np.arange(max(first + wanted // 2, before + 1), first + most + 1)
    best = window[strength[window] == strength[window].max()]
    return int(best[np.argmin(np.abs(best - (first + wanted)))])


def _begin_before(strength: NDArray[np.int8], first: int, end: int, overlap: int) -> int:
    """Return the token that the chunk after the one from `first` to `end` begins with."""
    window = np.arange(max(first + 1, end - overlap), end)
    return int(window[np.argmax(strength[window])]) if len(window) else end


def _strengths(text: str, begins: NDArray[np.int64]) -> NDArray[np.int8]:
    """Return for each token `[n]` what begins there: a sentence, a word, or neither."""
    found = np.full(len(begins) + 1, _NOWHERE, np.int8)
    for pattern, strength in ((_WORD_BEGIN, _WORD), (_SENTENCE_END, _SENTENCE)):
        places = np.array([match.start() for match in pattern.finditer(text)], np.int64)
        found[np.searchsorted(begins, places)] = strength
    return found


def _divided(tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return `tokens` without empty ones, with long ones in pieces of `LONGEST` characters."""
    tokens = tokens[tokens[:, 1] > tokens[:, 0]]
    pieces = -(-(tokens[:, 1] - tokens[:, 0]) // LONGEST)
    first = np.repeat(np.cumsum(pieces) - pieces, pieces)
    begins = np.repeat(tokens[:, 0], pieces) + (np.arange(len(first)) - first) * LONGEST
    return np.stack([begins, np.minimum(begins + LONGEST, np.repeat(tokens[:, 1], pieces))], axis=1)
