"""Windows as start rows into vectors that lie on the training device.

A window is one integer. Contexts and targets are gathered from the vectors on the device, a batch at a
time, so that no sample passes through Python and each vector is stored once and not in six windows. A
memory-mapped corpus over `RESIDENT_BYTES` stays on the disk and is gathered on the host instead.

N vectors, n windows, b batch, T context length, D vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lvm_runtime.errors import InvalidInput

from ..options import RESIDENT_BYTES
from .corpus import Corpus


class VectorStore:
    """Rows of a corpus, gathered by index as float32 on `device`."""

    def __init__(
        self, vectors: NDArray[Any], device: str, *, normalize: bool = False, resident_bytes: int = RESIDENT_BYTES
    ) -> None:
        self.device = torch.device(device)
        self.normalize = normalize
        self.dim = int(vectors.shape[1])
        self._mapped: NDArray[Any] | None = None
        self._resident: Tensor | None = None
        if vectors.shape[0] * self.dim * 4 > resident_bytes:
            self._mapped = vectors
        else:
            rows = torch.from_numpy(np.array(vectors, dtype=np.float32))
            self._resident = self._scaled(rows.to(self.device))

    def __len__(self) -> int:
        held = self._resident if self._resident is not None else self._mapped
        assert held is not None
        return len(held)

    @property
    def resident(self) -> bool:
        """Whether the vectors are on the device."""
        return self._resident is not None

    def rows(self, index: Tensor) -> Tensor:
        """Return rows `[…, D]` for an int64 `index` `[…]` on the device."""
        if self._resident is not None:
            flat = self._resident.index_select(0, index.reshape(-1))
            return flat.view(*index.shape, self.dim)
        assert self._mapped is not None
        found = torch.from_numpy(np.asarray(self._mapped[index.cpu().numpy()], dtype=np.float32))
        return self._scaled(found.to(self.device, non_blocking=True))

    def _scaled(self, rows: Tensor) -> Tensor:
        return torch.nn.functional.normalize(rows, dim=-1) if self.normalize else rows


@dataclass(frozen=True, slots=True)
class WindowSet:
    """Windows of one side of a split: first rows `starts` `[n]` on the device and the group `[n]` of each."""

    store: VectorStore
    starts: Tensor
    groups: NDArray[np.int64]
    context_length: int

    def __len__(self) -> int:
        return len(self.starts)

    def batch(self, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Return contexts `[b, T, D]` and targets `[b, D]` of the windows that begin at `starts` `[b]`."""
        steps = torch.arange(self.context_length, device=starts.device)
        return self.store.rows(starts.unsqueeze(1) + steps), self.store.rows(starts + self.context_length)

    def batches(self, size: int) -> list[Tensor]:
        """Return the starts in pieces of at most `size`, in order."""
        return list(self.starts.split(size))

    def sample(self, count: int) -> WindowSet:
        """Return at most `count` windows, evenly spaced."""
        if len(self) <= count:
            return self
        index = np.linspace(0, len(self) - 1, count).astype(np.int64)
        chosen = torch.from_numpy(index).to(self.starts.device)
        return WindowSet(self.store, self.starts[chosen], self.groups[index], self.context_length)


@dataclass(frozen=True, slots=True)
class Split:
    """Training, validation and (possibly empty) test windows, and remarks for the reader."""

    train: WindowSet
    validation: WindowSet
    test: WindowSet
    remarks: tuple[str, ...] = ()


def split_windows(
    corpus: Corpus,
    usable: NDArray[np.bool_],
    store: VectorStore,
    *,
    context_length: int = 5,
    validation: float = 0.1,
    test: float = 0.0,
    how: str = "last",
    seed: int = 0,
) -> Split:
    """Split windows so that no document has windows on two sides.

    "last" takes the last documents of the corpus for validation and those before them for test: neighbours in
    a corpus are alike, so this is the stricter way. "random" draws documents by `seed`. Fractions are of
    documents. Windows without groups are cut contiguously, with a gap wide enough that none overlap the border.
    Raises InvalidInput where a side would be empty.
    """
    starts = corpus.starts(context_length)
    if len(starts) and not usable.all():
        bad = np.concatenate([[0], np.cumsum(~usable)])
        starts = starts[bad[starts + context_length + 1] == bad[starts]]
    if not len(starts):
        raise InvalidInput(f"{corpus.name}: no document has {context_length + 1} usable vectors, so there is no window")
    remarks: tuple[str, ...] = ()
    if corpus.groups is None:
        groups = np.arange(len(starts), dtype=np.int64)
        sides = _contiguous_sides(len(starts), validation, test, context_length)
        remarks = (
            "warning: these windows do not say which document they come from, so they are split where they lie, with "
            f"a gap of {context_length} windows at the border; a random split would put most of each validation "
            "window into training. Intervals treat windows as independent and are too narrow",
        )
    else:
        groups = corpus.groups[starts]
        sides = _document_sides(groups, validation, test, how, seed)
    parts = [WindowSet(store, torch.from_numpy(starts[s]).to(store.device), groups[s], context_length) for s in sides]
    for name, part, wanted in zip(("training", "validation", "test"), parts, (1.0, validation, test), strict=True):
        if wanted and not len(part):
            raise InvalidInput(f"{corpus.name}: {name} gets no window; give it a larger share or a larger corpus")
    return Split(parts[0], parts[1], parts[2], remarks)


def _document_sides(
    groups: NDArray[np.int64], validation: float, test: float, how: str, seed: int
) -> list[NDArray[np.bool_]]:
    documents = np.unique(groups)
    if how == "random":
        documents = np.random.default_rng(seed).permutation(documents)
    cut_validation = len(documents) - max(1, round(len(documents) * validation))
    cut_test = cut_validation - (max(1, round(len(documents) * test)) if test else 0)
    pieces = np.split(documents, [max(cut_test, 0), max(cut_validation, 0)])
    in_train, in_test, in_validation = (np.isin(groups, piece) for piece in pieces)
    return [in_train, in_validation, in_test]


def _contiguous_sides(n: int, validation: float, test: float, gap: int) -> list[NDArray[np.bool_]]:
    place = np.arange(n)
    cut_validation = n - max(1, round(n * validation))
    cut_test = cut_validation - (max(1, round(n * test)) + gap if test else 0)
    in_train = place < (cut_test - gap if test else cut_validation - gap)
    in_test = (place >= cut_test) & (place < cut_validation - gap) if test else np.zeros(n, bool)
    return [in_train, place >= cut_validation, in_test]
