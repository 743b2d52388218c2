"""The offset profile finds where a predictor points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from train.data.corpus import load_corpus
from train.data.windows import VectorStore, WindowSet
from train.evaluation.offsets import offset_profile, past_warning


@pytest.mark.parametrize("offset", [-3, -1, 0, 1, 2])
def test_profile_is_one_at_the_offset_that_is_predicted(offset: int) -> None:
    corpus = load_corpus("synthetic", windows=200, dim=16)
    store = VectorStore(corpus.values, "cpu")
    starts = torch.from_numpy(corpus.starts(6))
    windows = WindowSet(store, starts, corpus.doc_ids[starts.numpy()], 5)
    rows = {corpus.values[row].tobytes(): row for row in range(len(corpus.values))}

    def predict(contexts: Tensor) -> Tensor:
        last = [rows[context[-1].numpy().tobytes()] for context in contexts]
        return store.rows(torch.tensor(last) + offset)

    profile = offset_profile(predict, windows, corpus.doc_ids)
    assert list(profile) == ["-3", "-2", "-1", "0", "+1", "+2", "+3"]
    assert profile[f"{offset:+d}" if offset else "0"].value == pytest.approx(1, abs=1e-6)
    assert all(found.value < 0.9 for name, found in profile.items() if int(name) != offset)
    assert bool(past_warning(profile)) == (offset <= 0)


def test_ready_cut_windows_have_no_vectors_after_the_target() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((60, 8)).astype(np.float32)
    windows = WindowSet(VectorStore(vectors, "cpu"), torch.arange(0, 60, 6), np.arange(10), 5)
    profile = offset_profile(lambda c: c[:, -1], windows, np.repeat(np.arange(10), 6))
    assert list(profile) == ["-3", "-2", "-1", "0", "+1"]
