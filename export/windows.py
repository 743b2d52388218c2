"""Real contexts to check an export with: windows that never cross from one document into the next.

n windows, T context length, D vector.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.corpus.corpus import open_corpus
from lvm_runtime.corpus.split import last_windows
from lvm_runtime.errors import InvalidInput
from lvm_runtime.retrieval.exact import unit_rows

HELD_OUT = 0.1
"""Share of the documents, the last ones, whose windows are used."""


def read_windows(
    path: Path, dim: int, context_length: int, count: int, *, normalize: bool = False
) -> NDArray[np.float32]:
    """Return up to `count` windows `[n, T, D]`, evenly spread over the last documents of the corpus at `path`.

    With `normalize` their vectors are divided by their lengths. Raises InvalidInput if it cannot be read or holds
    vectors of another size.
    """
    corpus = open_corpus(path, context_length=context_length, dim=dim)
    starts = last_windows(corpus, context_length, HELD_OUT)
    if not len(starts):
        raise InvalidInput(f"{path}: none of its last documents holds {context_length} vectors; give longer ones")
    starts = starts[np.linspace(0, len(starts) - 1, min(count, len(starts))).astype(int)]
    windows = corpus.windows(starts, context_length).astype(np.float32)
    return unit_rows(windows) if normalize else windows
