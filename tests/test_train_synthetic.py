"""The synthetic corpus has the baselines it was made for, and its ceiling is what its best predictor reaches."""

from __future__ import annotations

import numpy as np
import pytest

from train.synthetic import SyntheticProcess

PROCESS = SyntheticProcess()


def test_closed_forms() -> None:
    assert PROCESS.ceiling() == pytest.approx(0.5666, abs=5e-5)
    assert PROCESS.linear_average() == pytest.approx(0.5462, abs=5e-5)
    assert PROCESS.linear_average() < PROCESS.unordered_ceiling() == pytest.approx(0.5616, abs=5e-5)


def test_sample_reaches_baselines_and_ceiling() -> None:
    vectors, ids = PROCESS.sample(8000)
    documents = vectors.reshape(ids[-1] + 1, -1, 768)
    contexts = np.lib.stride_tricks.sliding_window_view(documents[:, :-1], 5, axis=1)  # [docs, windows, D, T]
    targets = documents[:, 5:]
    mean = vectors.mean(axis=0)
    assert len(targets.reshape(-1, 768)) == 8000

    def cosine(predictions: np.ndarray) -> float:
        lengths = np.linalg.norm(predictions, axis=-1)
        return float(((predictions * targets).sum(-1) / lengths).mean())

    wiener = mean + (contexts - mean[:, None]) @ PROCESS.wiener_weights().astype(np.float32)
    assert cosine(contexts.mean(-1)) == pytest.approx(0.5462, abs=4e-3)
    assert cosine(contexts[..., -1]) == pytest.approx(0.4383, abs=4e-3)
    assert cosine(np.broadcast_to(mean, targets.shape)) == pytest.approx(0.4218, abs=4e-3)
    unordered = mean + (contexts.mean(-1) - mean) * np.float32(PROCESS.wiener_weights().sum())
    assert cosine(unordered) == pytest.approx(PROCESS.unordered_ceiling(), abs=4e-3)
    assert cosine(wiener) == pytest.approx(PROCESS.ceiling(), abs=4e-3)


def test_same_seed_same_corpus() -> None:
    small = SyntheticProcess(dim=16)
    np.testing.assert_array_equal(small.sample(100, seed=3)[0], small.sample(100, seed=3)[0])
    assert not np.array_equal(small.sample(100, seed=3)[0], small.sample(100, seed=4)[0])
