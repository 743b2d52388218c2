"""What a search finds, against a full sort; ranks have theirs beside the figures of training."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from lvm_runtime.corpus import ranks


def test_nearest_is_the_head_of_a_full_sort_without_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "CANDIDATE_BLOCK", 32)
    monkeypatch.setattr(ranks, "QUERIES", 7)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(100, 8, generator=generator) * 3
    starts = torch.arange(0, 90, 5)
    predictions = F.normalize(vectors[starts + 4] + torch.randn(len(starts), 8, generator=generator), dim=1)
    found = ranks.Search(lambda index: vectors[index], starts, 5, 0, 100).nearest(predictions, 10)
    for query, start in enumerate(starts.tolist()):
        cosines = F.normalize(vectors, dim=1) @ predictions[query]
        expected = [row for row in cosines.argsort(descending=True).tolist() if row not in range(start, start + 5)]
        assert found[query].tolist() == expected[:10]


def test_fewer_candidates_than_asked_for_are_marked() -> None:
    vectors = torch.eye(8)
    found = ranks.Search(lambda index: vectors[index], torch.tensor([1]), 5, 0, 8).nearest(vectors[7:], 4)
    assert found[0, :1].tolist() == [7]
    assert sorted(found[0].tolist()) == [-1, 0, 6, 7]
