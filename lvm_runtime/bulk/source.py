"""What a bulk run predicts: the windows of a corpus, read block by block.

The file is mapped where it can be, which saves the copy that a read makes, a few percent of the time of a small model.
Pages that are done with are handed back, because they would count as resident memory.

N rows of the file, T context length, D vector.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.corpus.corpus import Corpus
from lvm_runtime.system.memory_maps import advise_sequential, mapping_of, release_rows


class Source:
    """The contexts `[N, T, D]` of a corpus, or the windows of its vectors `[N, D]`, in order.

    `starts` holds the first vector of each window, and is None for contexts. `len` is the number of predictions.
    `first_row` is where in the file the corpus begins.
    """

    def __init__(self, corpus: Corpus, context_length: int, first_row: int = 0) -> None:
        self.name, self.context_length, self._first_row = corpus.name, context_length, first_row
        self.starts = None if corpus.values.ndim == 3 else corpus.starts(context_length)
        self._values = corpus.values
        advise_sequential(mapping_of(self._values))

    def __len__(self) -> int:
        return len(self._values) if self.starts is None else len(self.starts)

    def rows(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the rows of predictions start to stop in the file; for a corpus those of the windows' last vectors."""
        if self.starts is None:
            return self._first_row + np.arange(start, stop)
        return self._first_row + self.starts[start:stop] + self.context_length - 1

    def read(self, start: int, stop: int) -> tuple[NDArray[Any], NDArray[np.int64] | None]:
        """Return what predictions start to stop need: contexts and None, or vectors and where each window begins."""
        first, last = self._needed(start, stop)
        values = np.require(self._values[first:last], requirements="A")  # members of an .npz lie at any byte
        return values, None if self.starts is None else self.starts[start:stop] - first

    def release(self, start: int, stop: int) -> None:
        """Hand the memory of what predictions start to stop needed back to the system.

        Not that of the whole file, because others are at work on their part of it, and would wait for the system to
        bring it back.
        """
        release_rows(self._values, *self._needed(start, stop))

    def _needed(self, start: int, stop: int) -> tuple[int, int]:
        """Return the first of the file's rows that predictions start to stop need, and the one after the last."""
        if self.starts is None:
            return start, stop
        return int(self.starts[start]), int(self.starts[stop - 1]) + self.context_length
