"""Sessions: padding to fixed batch sizes, and the checks that a backend has to pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lvm_runtime.artifact.fingerprint import Fingerprint, probe_contexts
from lvm_runtime.backends.base import Array, Backend
from lvm_runtime.errors import VerificationFailed
from lvm_runtime.selection.candidates import Candidate
from lvm_runtime.selection.session import Session


class MeanBackend(Backend):
    """The linear average, with what a test wants to be wrong with it."""

    name = "mean"

    def __init__(self, source: Path = Path(), **options: Any) -> None:
        self.device, self.precision = "cpu", options["precision"]
        self.sizes_seen: list[int] = []
        self.noise = options.get("noise", 0.0)
        self.batch_noise = options.get("batch_noise", 0.0)
        self.mate_noise = options.get("mate_noise", 0.0)
        self.batch_sizes = options.get("batch_sizes")

    def run(self, contexts: Array) -> Array:
        self.sizes_seen.append(len(contexts))
        mean = contexts.mean(axis=1)
        mean[:, 0] += self.noise + self.batch_noise * len(contexts) + self.mate_noise * np.ptp(contexts)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def _fingerprint() -> Fingerprint:
    contexts = probe_contexts(8, 5)
    mean = contexts.astype(np.float64).mean(axis=1)
    return Fingerprint(contexts, mean / np.linalg.norm(mean, axis=1, keepdims=True))


def _session(precision: str = "fp32", limit: float = 1e-6, **options: Any) -> Session:
    candidate = Candidate("mean", "cpu", precision, Path(), "mean.bin", 0.0)
    return Session(candidate, MeanBackend(precision=precision, **options), _fingerprint(), limit)


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 11])
def test_padding_does_not_show(rows: int) -> None:
    fixed, free = _session(batch_sizes=(1, 4)), _session()
    contexts = np.random.default_rng(0).standard_normal((rows, 5, 8)).astype(np.float32)
    np.testing.assert_array_equal(fixed.run(contexts), free.run(contexts))
    assert set(fixed.backend.sizes_seen) <= {1, 4}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("precision", "limit", "options", "message"),
    [
        ("fp32", 1e-6, {"noise": 0.05}, "drift from the known answers .* is"),
        ("fp32", 1e-6, {"noise": np.nan}, "drift from the known answers .* is inf"),
        ("fp32", 1e-6, {"noise": 1e-4}, "largest difference to the known answers is .*expected ≤ 2.0e-05"),
        ("int8", 1e-6, {"noise": 1e-2}, "drift from the known answers .* is"),
        ("int8", 1e-3, {"batch_noise": 1e-4}, "change of probe 0 without its batch-mates is .*expected ≤ 1.0e-06"),
        ("fp16", 1e-4, {"mate_noise": 1e-3, "batch_sizes": (1, 16)}, "change of probe 0 without its batch-mates"),
    ],
    ids=["wrong", "nan", "TF32-like", "over the limit", "changes with the batch", "changes with its mates, fixed size"],
)
def test_a_backend_that_is_off_is_refused(precision: str, limit: float, options: dict[str, Any], message: str) -> None:
    with pytest.raises(VerificationFailed, match=message):
        _session(precision, limit, **options)


def test_a_backend_within_its_precision_passes_with_its_drift() -> None:
    session = _session("int8", 1e-3, noise=1e-3)
    assert 1e-9 < session.drift < 1e-3
    assert session.answers.shape == (16, 8)


def test_programs_for_different_batch_sizes_may_round_differently() -> None:
    session = _session("fp16", 1e-4, batch_noise=1e-5, batch_sizes=(1, 16))
    one, sixteen = session.run(_fingerprint().contexts[:1])[0], session.answers[0]
    assert not np.array_equal(one, sixteen)
    np.testing.assert_allclose(one, sixteen, rtol=0, atol=1e-3)
