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

from lvm_runtime.corpus.corpus import Corpus
from lvm_runtime.corpus.split import split

from ..options import RESIDENT_BYTES


class VectorStore:
    """Rows of a corpus, gathered by index as float32 on `device`."""

    def __init__(
        self, vectors: NDArray[Any], device: str, *, normalize: bool = False, resident_bytes: int = RESIDENT_BYTES
    ) -> None:
        self.device = torch.device(device)
        self.normalize = normalize
        self.dim = int(vectors.shape[1])
        self._held: NDArray[Any] | Tensor = vectors  # a tensor on the device, where they are few enough
        if vectors.shape[0] * self.dim * 4 <= resident_bytes:
            rows = torch.from_numpy(np.array(vectors, dtype=np.float32))
            self._held = self._scaled(rows.to(self.device))

    def __len__(self) -> int:
        return len(self._held)

    def rows(self, index: Tensor) -> Tensor:
        """Return rows `[…, D]` for an int64 `index` `[…]` on the device."""
        if isinstance(self._held, Tensor):
            return self._held.index_select(0, index.reshape(-1)).view(*index.shape, self.dim)
        found = torch.from_numpy(np.asarray(self._held[index.cpu().numpy()], dtype=np.float32))
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
        """Return the starts in batches of at most `size`, in order."""
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
    corpus: Corpus, usable: NDArray[np.bool_], store: VectorStore, *, context_length: int = 5, **settings: Any
) -> Split:
    """Return what `lvm_runtime.corpus.split` makes of the corpus's windows, on the device of `store`."""
    sides = split(corpus, usable, context_length=context_length, **settings)
    train, validation, test = (
        WindowSet(store, torch.from_numpy(side.starts).to(store.device), side.groups, context_length)
        for side in (sides.train, sides.validation, sides.test)
    )
    return Split(train, validation, test, sides.remarks)
