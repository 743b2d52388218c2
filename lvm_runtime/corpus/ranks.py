"""What a search with predictions finds among the vectors of a corpus: for the figures of training and of exports.

A window's own context is left out of what may be found: the reader has it already. Vectors are read in blocks, so
memory does not grow with the corpus.

q queries, N corpus vectors, T context length, D vector, k found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

QUERIES = 1000
"""Held-out windows that are searched for, evenly spaced, if no other number is given: each is compared with the whole
corpus."""

CANDIDATE_BLOCK = 8192
_ROUNDING = 1e-6  # of a cosine in float32: ties count as better

Read = Callable[[Tensor], Tensor]
"""Returns the corpus's rows `[…, D]` float32 for an int64 index `[…]`, on the index's device."""


@dataclass(frozen=True, slots=True)
class Search:
    """Windows of `length` context vectors that begin at rows `starts` `[q]`, with rows `begin` to `end` to be found."""

    read: Read
    starts: Tensor
    length: int
    begin: int
    end: int

    @torch.no_grad()
    def ranks(self, predictions: Mapping[str, Tensor]) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Return, for unit predictions `[q, D]`, each target's rank `[q]` (1 is best) and the share that is farther.

        Ties count as better, and so do all vectors for a prediction that is not finite. The share `[q]` is the
        contrastive accuracy of Large Concept Models (arXiv 2412.08821, section 2.4.1), with the corpus in the place of
        the batch: of the vectors other than the target and the two beside it, those that are farther from the
        prediction; on unit vectors the order by cosine is that by distance.
        Their published code leaves out the target's whole document instead.
        """
        own = self.starts + self.length
        targets = F.normalize(self.read(own), dim=1)
        limits = {name: (p * targets).sum(dim=1, keepdim=True) - _ROUNDING for name, p in predictions.items()}
        counts = {name: torch.zeros_like(own) for name in predictions}
        for _, candidates in self._blocks():
            for name, found in predictions.items():
                for part in torch.arange(len(own), device=own.device).split(QUERIES):
                    counts[name][part] += _as_near(found[part] @ candidates.T, limits[name][part]).sum(dim=1)
        context = F.normalize(self.read(self._context_rows()), dim=2)  # [q, T, D]
        following = F.normalize(self.read((own + 1).clamp(max=self.end - 1)), dim=1)
        has_following = own + 1 < self.end
        others = self.end - self.begin - 2 - has_following.long()

        def finish(name: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
            near = _as_near(torch.einsum("btd,bd->bt", context, predictions[name]), limits[name])  # [q, T]
            near_after = _as_near((following * predictions[name]).sum(dim=1, keepdim=True), limits[name])[:, 0]
            nearer = counts[name] - 1 - near[:, -1].long() - (near_after & has_following).long()
            rank = (counts[name] - near.sum(dim=1)).clamp(min=1)
            return _host(rank), 1 - _host(nearer.clamp(min=0)) / np.maximum(_host(others), 1)

        return {name: finish(name) for name in predictions}

    @torch.no_grad()
    def nearest(self, predictions: Tensor, k: int) -> Tensor:
        """Return the rows that a search with unit `predictions` `[q, D]` finds, best first `[q, k]`; −1 if too few."""
        own, found = self._context_rows(), []
        for part in torch.arange(len(own), device=own.device).split(QUERIES):
            best = torch.full((len(part), k), -torch.inf, device=own.device)
            rows = torch.full((len(part), k), -1, device=own.device)
            for first, candidates in self._blocks():
                cosines = (predictions[part] @ candidates.T).nan_to_num(-torch.inf)
                row, column = ((own[part] >= first) & (own[part] < first + len(candidates))).nonzero(as_tuple=True)
                cosines[row, own[part][row, column] - first] = -torch.inf
                values, places = cosines.topk(min(k, len(candidates)), dim=1)
                places = torch.where(values == -torch.inf, -1, places + first)
                best, kept = torch.cat([best, values], dim=1).topk(k, dim=1)
                rows = torch.cat([rows, places], dim=1).gather(1, kept)
            found.append(rows)
        return torch.cat(found)

    def _context_rows(self) -> Tensor:
        return self.starts.unsqueeze(1) + torch.arange(self.length, device=self.starts.device)  # [q, T]

    def _blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the first row of each block of candidates and its unit vectors `[n, D]`."""
        for first in range(self.begin, self.end, CANDIDATE_BLOCK):
            rows = torch.arange(first, min(first + CANDIDATE_BLOCK, self.end), device=self.starts.device)
            yield first, F.normalize(self.read(rows), dim=1)


def _as_near(cosines: Tensor, limits: Tensor) -> Tensor:
    """Say which of `cosines` `[q, n]` reach `limits` `[q, 1]`; one that is NaN does, or it would make a rank of 1."""
    return ~(cosines < limits)


def _host(values: Tensor) -> NDArray[np.int64]:
    found: NDArray[np.int64] = values.cpu().numpy()
    return found
