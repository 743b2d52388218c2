"""The synthetic corpus has the baselines it was made for, and its ceiling is what its best predictor reaches."""

from __future__ import annotations

import numpy as np
import pytest

from lvm_runtime.artifact.config import ARCHITECTURES, make_config
from train.data.synthetic import SyntheticProcess

PROCESS = SyntheticProcess()
LINEAR_AVERAGE = 0.5462
"""Its cosine for large D: (|μ|² + mean r) / √(|μ|² + mean R)."""


def test_closed_forms() -> None:
    assert PROCESS.ceiling() == pytest.approx(0.5666, abs=5e-5)
    assert LINEAR_AVERAGE < PROCESS.unordered_ceiling() == pytest.approx(0.5618, abs=5e-5)
    assert PROCESS.bottleneck_ceiling(512) == pytest.approx(0.5230, abs=5e-5)


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
    weights = PROCESS.wiener_weights()
    symmetric = mean + (contexts - mean[:, None]) @ ((weights + weights[::-1]) / 2).astype(np.float32)
    assert cosine(contexts.mean(-1)) == pytest.approx(LINEAR_AVERAGE, abs=4e-3)
    assert cosine(contexts[..., -1]) == pytest.approx(0.4383, abs=4e-3)
    assert cosine(np.broadcast_to(mean, targets.shape)) == pytest.approx(0.4218, abs=4e-3)
    assert cosine(wiener) == pytest.approx(PROCESS.ceiling(), abs=4e-3)
    assert cosine(wiener) > cosine(symmetric) == pytest.approx(PROCESS.unordered_ceiling(), abs=4e-3)
    # the best that 513 outputs span, with the mean among them
    span = np.linalg.qr(np.column_stack([mean, np.random.default_rng(1).standard_normal((768, 512))]))[0]
    narrow = wiener @ span.astype(np.float32) @ span.T.astype(np.float32)
    assert cosine(narrow) == pytest.approx(PROCESS.bottleneck_ceiling(512), abs=4e-3)


def test_no_order_is_likelier_than_its_reverse() -> None:
    """Why symmetric weights are the best an order-blind predictor has: the likelihood of a context, oldest first."""
    vectors, ids = PROCESS.sample(400)
    contexts = vectors.reshape(ids[-1] + 1, -1, 768)[:, :5].astype(np.float64)
    precision = np.linalg.inv(PROCESS._covariances(5)[0])

    def evidence(order: list[int]) -> np.ndarray:
        placed = contexts[:, order] - vectors.mean(axis=0)
        return -768 / 2 * np.einsum("ntd,ts,nsd->n", placed, precision, placed)

    forwards = evidence([0, 1, 2, 3, 4])
    np.testing.assert_allclose(forwards, evidence([4, 3, 2, 1, 0]), rtol=1e-12)
    assert (forwards > evidence([2, 0, 4, 1, 3])).mean() > 0.8


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ceiling_of_an_architecture(architecture: str) -> None:
    narrow, wide = (
        PROCESS.ceiling_of(make_config(architecture)),
        SyntheticProcess(dim=384).ceiling_of(make_config(architecture, dim=384)),
    )
    if architecture == "amn":
        assert narrow == wide == PROCESS.unordered_ceiling()
    else:
        assert narrow < LINEAR_AVERAGE < wide == PROCESS.ceiling()


def test_same_seed_same_corpus() -> None:
    small = SyntheticProcess(dim=16)
    np.testing.assert_array_equal(small.sample(100, seed=3)[0], small.sample(100, seed=3)[0])
    assert not np.array_equal(small.sample(100, seed=3)[0], small.sample(100, seed=4)[0])
