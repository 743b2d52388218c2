"""Splits of a corpus in which no document has windows on two sides.

n windows, N vectors, T context length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.corpus.corpus import Corpus
from lvm_runtime.errors import InvalidInput, counted

_NO_GROUPS = (
    "warning: these windows do not say which document they come from, so they are split where they lie, with "
    "a gap of {gap} windows at the border; a random split would put most of each validation window into training. "
    "Intervals are over stretches of windows, and say nothing of other documents"
)
_STRETCHES = 20


@dataclass(frozen=True, slots=True)
class Side:
    """Windows of one side: where each begins, `starts` `[n]`, and the group `[n]` of each."""

    starts: NDArray[np.int64]
    groups: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sides:
    """Training, validation and (possibly empty) test windows, and remarks for the reader."""

    train: Side
    validation: Side
    test: Side
    remarks: tuple[str, ...]


def split(
    corpus: Corpus,
    usable: NDArray[np.bool_],
    *,
    context_length: int = 5,
    validation: float = 0.1,
    test: float = 0.0,
    how: str = "last",
    seed: int = 0,
) -> Sides:
    """Split the windows of T + 1 vectors, all of them `usable` `[N]`.

    "last" takes the last documents of the corpus for validation and those before them for test: neighbours in
    a corpus are alike, so this is the stricter way. "random" draws documents by `seed`. Fractions are of
    documents. Windows without groups are cut contiguously, with a gap wide enough that none overlap the border, and
    each side's are in 20 groups at most.
    Raises InvalidInput where a side would be empty.
    """
    starts = _usable_starts(corpus, usable, context_length + 1)
    remarks = corpus.remarks
    if corpus.groups is None:
        groups = np.arange(len(starts), dtype=np.int64)
        chosen = _contiguous_sides(len(starts), validation, test, context_length)
        remarks = (*remarks, _NO_GROUPS.format(gap=context_length))
    else:
        groups = corpus.groups[starts]
        chosen = _document_sides(groups, validation, test, how, seed)
    for name, mask, wanted in zip(("training", "validation", "test"), chosen, (1.0, validation, test), strict=True):
        if wanted and not mask.any():
            of = "" if corpus.groups is None else f" of {counted(len(np.unique(groups)), 'document')}"
            raise InvalidInput(f"{corpus.name}: {name} gets no window{of}; give it a larger share or a larger corpus")
    if corpus.groups is None:
        for mask in chosen:
            groups[mask] = _stretches(int(mask.sum()), context_length)
    train, held_out, last = (Side(starts[mask], groups[mask]) for mask in chosen)
    return Sides(train, held_out, last, remarks)


def _usable_starts(corpus: Corpus, usable: NDArray[np.bool_], rows: int) -> NDArray[np.int64]:
    """Return where each window of `rows` vectors begins, all of them `usable` `[N]`; InvalidInput if there is none."""
    starts = corpus.starts(rows)
    if len(starts) and not usable.all():
        bad = np.concatenate([[0], np.cumsum(~usable)])
        starts = starts[bad[starts + rows] == bad[starts]]
    if not len(starts):
        short = int((~usable).sum())
        why = f" ({short:,} of {len(usable):,} vectors have no length)" if short else ""
        raise InvalidInput(f"{corpus.name}: no document has {rows} usable vectors in a row, so there is no window{why}")
    return starts


def last_windows(corpus: Corpus, rows: int, share: float) -> NDArray[np.int64]:
    """Return where each window of `rows` vectors of the last documents begins, `share` of those that have windows."""
    starts = corpus.starts(rows)
    if corpus.groups is None or not len(starts):
        return starts[max(0, len(starts) - _count(len(starts), share)) :]
    groups = corpus.groups[starts]
    documents = np.unique(groups)  # of documents too short for a window, a split knows nothing either
    return starts[groups >= documents[-_count(len(documents), share)]]


def _count(total: int, share: float) -> int:
    return max(1, round(total * share))


def _document_sides(
    groups: NDArray[np.int64], validation: float, test: float, how: str, seed: int
) -> list[NDArray[np.bool_]]:
    documents = np.unique(groups)
    if how == "random":
        documents = np.random.default_rng(seed).permutation(documents)
    cut_validation = len(documents) - _count(len(documents), validation)
    cut_test = cut_validation - (_count(len(documents), test) if test else 0)
    sides = np.split(documents, [max(cut_test, 0), max(cut_validation, 0)])
    in_train, in_test, in_validation = (np.isin(groups, side) for side in sides)
    return [in_train, in_validation, in_test]


def _stretches(n: int, context_length: int) -> NDArray[np.int64]:
    """Return the stretch `[n]` of each of n windows, for intervals: windows beside each other share their vectors.

    There are 20 of one length at most, each at least as long as a window, so that few windows lie in two of them.
    """
    return np.arange(n) // max(context_length + 1, -(-n // _STRETCHES))


def _contiguous_sides(n: int, validation: float, test: float, gap: int) -> list[NDArray[np.bool_]]:
    place = np.arange(n)
    cut_validation = n - _count(n, validation)
    cut_test = cut_validation - (_count(n, test) + gap if test else 0)
    in_train = place < (cut_test - gap if test else cut_validation - gap)
    in_test = (place >= cut_test) & (place < cut_validation - gap) if test else np.zeros(n, bool)
    return [in_train, place >= cut_validation, in_test]
