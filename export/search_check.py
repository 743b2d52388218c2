"""Whether a compiled form finds what the training form finds: predictions are searched with, so order counts.

Drift says how far a prediction moved, not past which neighbours. So held-out windows of a corpus are searched with
both forms' predictions: the overlap of the first ten found has a limit, the difference in mean reciprocal rank (MRR)
is recorded.

q windows, N corpus vectors, T context length, D vector, k found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lvm_runtime.artifact.drift import OVERLAP_LIMIT
from lvm_runtime.corpus.corpus import joined, open_corpus
from lvm_runtime.corpus.ranks import QUERIES, Search
from lvm_runtime.corpus.split import last_windows
from lvm_runtime.errors import InvalidInput, VerificationFailed
from lvm_runtime.retrieval.exact import unit_rows
from lvm_runtime.system.memory_maps import release_rows

from .windows import HELD_OUT

FOUND = 10
_BATCH = 128


@dataclass(frozen=True, slots=True)
class SearchReport:
    """What a form found: `overlap` at k with the training form, its MRR and that of the training form."""

    corpus: str
    windows: int
    candidates: int
    k: int
    overlap: float
    mrr: float
    training_mrr: float

    def __str__(self) -> str:
        return f"finds {self.overlap:.4f} of the same {self.k}, MRR {self.mrr:.4f} ({self.mrr_difference:+.4f})"

    @property
    def mrr_difference(self) -> float:
        """The form's MRR less the training form's."""
        return self.mrr - self.training_mrr

    def details(self) -> dict[str, Any]:
        """Return the figures as JSON values for the manifest."""
        counts = {"corpus": self.corpus, "windows": self.windows, "candidates": self.candidates, "k": self.k}
        return counts | {"overlap": self.overlap, "mrr": self.mrr, "mrr_difference": self.mrr_difference}


@dataclass(frozen=True, slots=True)
class SearchCheck:
    """Windows `[q, T, D]` float32 to search with, what the training form finds `[q, k]`, and its MRR."""

    corpus: str
    search: Search
    contexts: NDArray[np.float32]
    found: Tensor
    mrr: float
    limit: float

    @classmethod
    def of(
        cls,
        model: nn.Module,
        path: Path,
        limit: float = OVERLAP_LIMIT,
        queries: int = QUERIES,
        *,
        normalize: bool = False,
    ) -> SearchCheck:
        """Search the corpus at `path` with `model`, for windows evenly spaced over its last documents.

        With `normalize` their vectors are divided by their lengths. Raises InvalidInput for a corpus without such
        windows, and for contexts without what followed them.
        """
        if not 0 <= limit <= 1:
            raise InvalidInput(f"the smallest overlap is {limit!r}, expected a share from 0 to 1")
        config: Any = model.config
        length = config.context_length
        corpus = joined(open_corpus(path, context_length=length, dim=config.dim))
        starts = last_windows(corpus, length + 1, HELD_OUT)
        starts = starts[np.linspace(0, len(starts) - 1, min(queries, len(starts))).astype(int)]
        if not len(starts):
            raise InvalidInput(f"{path}: none of its last documents holds {length + 1} vectors; give longer ones")
        values = corpus.values

        def read(index: Tensor) -> Tensor:
            rows = torch.from_numpy(np.asarray(values[index.numpy()], dtype=np.float32))
            release_rows(values, int(index.min()), int(index.max()) + 1)
            return rows

        search = Search(read, torch.from_numpy(starts), length, 0, len(values))
        contexts = corpus.windows(starts, length).astype(np.float32)
        contexts = unit_rows(contexts) if normalize else contexts
        release_rows(values, 0, len(values))
        with torch.inference_mode():
            predictions = _unit(torch.cat([model(batch) for batch in torch.from_numpy(contexts).split(_BATCH)]))
        return cls(path.name, search, contexts, search.nearest(predictions, FOUND), _mrr(search, predictions), limit)

    def measure(self, run: Callable[[NDArray[np.float32]], NDArray[Any]], name: str) -> SearchReport:
        """Search with what `run` predicts for contexts `[b, T, D]`, in batches of 128.

        Raises VerificationFailed, with `name` and the figures, for an overlap under the limit.
        """
        parts = [run(self.contexts[i : i + _BATCH]) for i in range(0, len(self.contexts), _BATCH)]
        predictions = _unit(torch.from_numpy(np.concatenate(parts).astype(np.float32)))
        same = self.search.nearest(predictions, FOUND).unsqueeze(2) == self.found.unsqueeze(1)  # [q, k, k]
        wanted = self.found >= 0
        overlap = float((same.any(dim=1) & wanted).sum() / wanted.sum().clamp(min=1))
        candidates, mrr = self.search.end, _mrr(self.search, predictions)
        report = SearchReport(self.corpus, len(self.contexts), candidates, FOUND, overlap, mrr, self.mrr)
        if not overlap >= self.limit:
            raise VerificationFailed(
                f"{name}: {report} on {self.corpus}, expected an overlap ≥ {self.limit:g} with the training form; "
                "nothing was kept: choose a higher --precision, or a smaller --min-overlap if that is good enough"
            )
        return report


def _unit(predictions: Tensor) -> Tensor:
    return F.normalize(predictions, dim=1)


def _mrr(search: Search, predictions: Tensor) -> float:
    return float((1 / search.ranks({"": predictions})[""][0]).mean())
