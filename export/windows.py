"""Real contexts to check an export with: windows that never cross from one document into the next.

N vectors, n windows, T context length, D vector.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import lvm_runtime.corpus
from lvm_runtime.errors import InvalidInput

BUNDLED = Path(lvm_runtime.corpus.__file__).parent / "docs-minilm-384.npz"
HELD_OUT = 0.1
"""Share of the documents, the last ones, whose windows are used."""


def read_windows(path: Path, dim: int, context_length: int, count: int) -> NDArray[np.float32]:
    """Return up to `count` windows `[n, T, D]`, evenly spread over the last documents of the corpus at `path`.

    The file is an `.npz` with `vectors` `[N, D]` and `doc_ids` `[N]`. Raises InvalidInput if it cannot be read or
    holds vectors of another size.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            vectors, doc_ids = arrays["vectors"], arrays["doc_ids"]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InvalidInput(f"{path}: expected an .npz with vectors [N, D] and doc_ids [N]; {error}") from error
    if vectors.ndim != 2 or vectors.shape[1] != dim or doc_ids.shape != vectors.shape[:1]:
        raise InvalidInput(f"{path}: vectors {vectors.shape} and doc_ids {doc_ids.shape}, expected [N, {dim}] and [N]")
    documents = np.unique(doc_ids)
    held_out = documents[-max(1, round(len(documents) * HELD_OUT)) :]
    inside = np.isin(doc_ids, held_out)
    starts = np.flatnonzero(inside[: len(doc_ids) - context_length + 1])
    starts = starts[doc_ids[starts] == doc_ids[starts + context_length - 1]]
    if not len(starts):
        raise InvalidInput(f"{path}: no document of its last {len(held_out)} holds {context_length} vectors")
    starts = starts[np.linspace(0, len(starts) - 1, min(count, len(starts))).astype(int)]
    return vectors[starts[:, None] + np.arange(context_length)].astype(np.float32)
