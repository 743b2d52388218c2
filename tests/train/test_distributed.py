"""The share of a batch that each process takes: together they are the batch, and their losses its mean."""

from __future__ import annotations

import pytest
import torch

from train.distributed import Processes


@pytest.mark.parametrize("rows", [1, 2, 7, 9])
def test_shares_make_up_the_batch_and_its_mean(rows: int) -> None:
    """Three processes, whose weighted means are averaged; a batch of fewer rows leaves some without."""
    batch = torch.arange(10.0, 10.0 + rows)
    taken: list[float] = []
    means = []
    for rank in range(3):
        process = Processes()
        process.rank, process.count = rank, 3
        mine, weight = process.share(batch)
        means.append(float(mine.mean()) * weight)
        taken += mine.tolist() if weight else []
    assert sorted(taken) == batch.tolist()
    assert sum(means) / 3 == pytest.approx(float(batch.mean()))
