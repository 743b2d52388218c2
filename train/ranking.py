"""A loss that ranks: the next vector competes with the vectors of all training documents in one softmax.

A search wants the next chunk before all others, and cosine alone rewards the middle of what may come. The window's
own context is left out of the candidates, as a search leaves it out. Candidates are read block by block and never
held together with their logits, so that memory does not grow with the corpus; the gradient comes from the same pass.

b batch, N candidates, k candidates of a step, T context length, D vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from .data.windows import WindowSet

_LOGITS = 1 << 22  # of a block: 16 MiB in float32
_LEAST_BLOCK = 1024
_RESIDENT_ROWS = 1 << 18  # up to this many, candidates are gathered once


class CorpusRanking:
    """The loss over the vectors of the training documents, all of them or a new sample for each step.

    `limit`: how many candidates a step has at most; 0 is no limit. A sample stands for all: its logits are raised
    by log(N / k), which makes the sum over it an unbiased estimate of the sum over the corpus.
    """

    def __init__(self, windows: WindowSet, temperature: float, limit: int = 0, seed: int = 0) -> None:
        self.windows, self.temperature, self.seed = windows, temperature, seed
        length = windows.context_length
        covered = torch.zeros(len(windows.store), dtype=torch.bool, device=windows.starts.device)
        for offset in range(length + 1):
            covered[windows.starts + offset] = True
        self.rows = covered.nonzero()[:, 0]  # [N], ascending
        self.count = min(limit or len(self.rows), len(self.rows))
        kept = self.count == len(self.rows) <= _RESIDENT_ROWS
        self._all = F.normalize(windows.store.rows(self.rows), dim=1) if kept else None

    def __call__(self, predictions: Tensor, starts: Tensor, targets: Tensor, draw: int = 0) -> Tensor:
        """Return −log softmax of each target `[b]` for unit predictions `[b, D]` of the windows at `starts` `[b]`.

        `draw` numbers the step: a sample of candidates depends on it and on the seed alone.
        """
        rows = self.rows if self.count == len(self.rows) else self._sample(draw)
        return _SoftmaxLoss.apply(predictions.float(), F.normalize(targets, dim=1), starts, rows, self)

    def blocks(self, rows: Tensor, batch: int) -> Iterator[tuple[int, Tensor]]:
        """Yield the first place of each block of candidates and its unit vectors `[n, D]`."""
        size = max(_LEAST_BLOCK, _LOGITS // batch)
        for begin in range(0, len(rows), size):
            if self._all is not None:
                yield begin, self._all[begin : begin + size]
            else:
                yield begin, F.normalize(self.windows.store.rows(rows[begin : begin + size]), dim=1)

    def places(self, rows: Tensor, starts: Tensor) -> Tensor:
        """Return where each window's T + 1 own rows are among the candidates `[b, T+1]`, −1 where they are not."""
        own = starts.unsqueeze(1) + torch.arange(self.windows.context_length + 1, device=starts.device)
        found = torch.searchsorted(rows, own).clamp(max=len(rows) - 1)
        return torch.where(rows[found] == own, found, -1)

    def _sample(self, draw: int) -> Tensor:
        """Return one row of each of k equal stretches of the candidates `[k]`, ascending."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + draw)
        borders = torch.arange(self.count + 1) * len(self.rows) // self.count
        widths = borders.diff()
        chosen = borders[:-1] + (torch.rand(self.count, generator=generator) * widths).long().clamp(max=widths - 1)
        return self.rows[chosen.to(self.rows.device)]


class _SoftmaxLoss(Function):
    """The softmax over blocks with a running maximum, as in FlashAttention (Dao et al. 2022)."""

    @staticmethod
    def forward(
        ctx: Any, predictions: Tensor, targets: Tensor, starts: Tensor, rows: Tensor, ranking: CorpusRanking
    ) -> Tensor:
        """Return the loss per row `[b]` and keep its gradient `[b, D]`: (expected candidate − target) / temperature."""
        own = (predictions * targets).sum(dim=1) / ranking.temperature  # [b]
        raised = torch.tensor(len(ranking.rows) / len(rows), device=own.device).log()
        largest, total, expected = own.clone(), torch.ones_like(own), targets.clone()
        places = ranking.places(rows, starts)
        for begin, candidates in ranking.blocks(rows, len(predictions)):
            logits = torch.addmm(raised, predictions, candidates.T, alpha=1 / ranking.temperature)
            row, column = ((places >= begin) & (places < begin + len(candidates))).nonzero(as_tuple=True)
            logits[row, places[row, column] - begin] = -torch.inf  # the context, and the target, counted before
            maximum = torch.maximum(largest, logits.amax(dim=1))
            weights = logits.sub_(maximum.unsqueeze(1)).exp_()
            kept = (largest - maximum).exp()
            total = total * kept + weights.sum(dim=1)
            expected = torch.addmm(expected * kept.unsqueeze(1), weights, candidates)
            largest = maximum
        ctx.save_for_backward((expected / total.unsqueeze(1) - targets) / ranking.temperature)
        return largest + total.log() - own

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient `[b, D]` of the predictions, and none of what else `forward` took."""
        (gradient,) = ctx.saved_tensors
        return outer[0].unsqueeze(1) * gradient, None, None, None, None
