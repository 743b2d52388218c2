"""What a fit is chosen by: whole documents that it has not seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from train.data.holdout import hold_out
from train.data.windows import VectorStore, WindowSet


@pytest.mark.parametrize(("documents", "held"), [(2, [1]), (19, [18]), (20, [18, 19]), (39, [36, 37, 38])])
def test_the_last_tenth_of_the_documents_is_kept_out(documents: int, held: list[int]) -> None:
    starts = torch.arange(documents * 3)
    windows = WindowSet(VectorStore(np.ones((200, 2)), "cpu"), starts, np.arange(documents * 3) // 3 * 10, 4)
    fit, kept = hold_out(windows)
    assert kept.starts.tolist() == list(range(held[0] * 3, documents * 3))
    assert fit.starts.tolist() == list(range(held[0] * 3))
    for side in (fit, kept):
        assert (side.groups.tolist(), side.context_length) == ((side.starts // 3 * 10).tolist(), 4)
        assert side.store is windows.store


def test_a_single_document_judges_itself() -> None:
    windows = WindowSet(VectorStore(np.ones((9, 2)), "cpu"), torch.arange(4), np.zeros(4, np.int64), 5)
    assert hold_out(windows) == (windows, windows)
