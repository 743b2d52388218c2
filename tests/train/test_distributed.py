"""The share of a batch that each process takes: together they are the batch, and their losses its mean."""

from __future__ import annotations

from typing import ClassVar

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


def test_flags_and_states_go_where_the_processes_meet() -> None:
    """GPUs' processes exchange nothing that lies on the CPU."""

    class Peers:
        device = torch.device("meta")
        seen: ClassVar[list[torch.Tensor]] = []

        def reduce(self, values: torch.Tensor, reduction: str) -> torch.Tensor:
            self.seen.append(values)
            return torch.tensor([0.5])

        def gather(self, values: torch.Tensor) -> torch.Tensor:
            self.seen.append(values)
            return torch.arange(6, dtype=torch.uint8).reshape(2, 3)

    process = Processes()
    process._accelerator = Peers()
    assert process.any(False)
    assert [part.tolist() for part in process.gather(torch.zeros(3, dtype=torch.uint8))] == [[0, 1, 2], [3, 4, 5]]
    assert [(values.device, tuple(values.shape)) for values in Peers.seen] == [
        (Peers.device, (1,)),
        (Peers.device, (1, 3)),
    ]
