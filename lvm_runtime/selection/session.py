"""A backend that has proved itself: built, compared with the known answers, and ready for any batch size.

n probes, b batch, T context length, D vector.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.artifact.drift import ATTENTION_LIMITS, BATCH_INVARIANCE_LIMIT, FP32_ABSOLUTE_LIMIT, drift
from lvm_runtime.artifact.fingerprint import Fingerprint
from lvm_runtime.backends.base import Array, Backend
from lvm_runtime.backends.batch_plan import plan_batches
from lvm_runtime.backends.registry import backend_class
from lvm_runtime.errors import VerificationFailed
from lvm_runtime.request import Request
from lvm_runtime.selection.candidates import Candidate


class Session:
    """One verified backend.

    `answers` `[n, D]` are its answers to the probes, and `drift` is the largest row drift among them, both from this
    machine.
    """

    __slots__ = ("answers", "backend", "candidate", "drift", "has_attention", "requested_threads")

    def __init__(self, candidate: Candidate, backend: Backend, fingerprint: Fingerprint, drift_limit: float) -> None:
        self.candidate = candidate
        self.backend = backend
        self.requested_threads: int | None = None
        self.has_attention = fingerprint.attention is not None
        self.answers, self.drift = self._verify(fingerprint, drift_limit)

    @classmethod
    def open(cls, candidate: Candidate, fingerprint: Fingerprint, request: Request) -> Session:
        """Build the candidate's backend and let it answer the probes.

        Raises BackendUnavailable or ArtifactError if it cannot be built here, VerificationFailed if its answers
        are off.
        """
        backend = backend_class(candidate.backend)(
            candidate.source, device=candidate.device, threads=request.threads, precision=candidate.precision
        )
        if backend.batch_sizes is None:
            backend.batch_sizes = candidate.batch_sizes
        try:
            session = cls(candidate, backend, fingerprint, request.drift_limit(candidate.precision))
        except BaseException:
            backend.close()
            raise
        session.requested_threads = request.threads
        return session

    def run(self, contexts: Array) -> Array:
        """Return predictions `[b, D]` for contiguous contexts `[b, T, D]`, b ≥ 1, padding where sizes are fixed."""
        if self.backend.batch_sizes is None:
            return self.backend.run(contexts)
        parts = [self.backend.run(part)[:used] for part, used in self._fitting(contexts)]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def run_with_attention(self, contexts: Array) -> tuple[Array, Array]:
        """Return predictions `[b, D]` and attention `[b, T]`."""
        if self.backend.batch_sizes is None:
            return self.backend.run_with_attention(contexts)
        parts = [(self.backend.run_with_attention(part), used) for part, used in self._fitting(contexts)]
        predictions = np.concatenate([p[:used] for (p, _), used in parts])
        return predictions, np.concatenate([a[:used] for (_, a), used in parts])

    def _fitting(self, contexts: Array) -> list[tuple[Array, int]]:
        """Cut `contexts` into parts of the backend's fixed sizes; the last is filled up with copies of its last row."""
        assert self.backend.batch_sizes is not None
        parts = []
        start = 0
        for size, used in plan_batches(len(contexts), self.backend.batch_sizes):
            part = contexts[start : start + used]
            if used < size:
                part = np.concatenate([part, np.repeat(part[-1:], size - used, axis=0)])
            parts.append((part, used))
            start += used
        return parts

    def _verify(self, fingerprint: Fingerprint, limit: float) -> tuple[Array, float]:
        """Compare the answers to the probes with the known ones, and one probe alone with itself among others."""
        predictions = self.run(fingerprint.contexts)
        _check_answers(predictions, fingerprint.predictions, limit, self._name())
        if self.candidate.precision == "fp32":
            difference = largest_difference(predictions, fingerprint.predictions)
            _check(difference, FP32_ABSOLUTE_LIMIT, f"{self._name()}: largest difference to the known answers")
        for i in (0, len(predictions) - 1):
            change = largest_difference(self._without_mates(fingerprint.contexts, i), predictions[i])
            _check(change, BATCH_INVARIANCE_LIMIT, f"{self._name()}: change of probe {i} without its batch-mates")
        if fingerprint.attention is not None:
            again, attention = self.run_with_attention(fingerprint.contexts)
            off = largest_difference(attention, fingerprint.attention)
            _check(off, ATTENTION_LIMITS[self.candidate.precision], f"{self._name()}: largest attention difference")
            change = largest_difference(again, predictions)
            _check(change, BATCH_INVARIANCE_LIMIT, f"{self._name()}: change when attention is asked for")
        return predictions, float(drift(predictions, fingerprint.predictions).max())

    def _without_mates(self, contexts: Array, i: int) -> Array:
        """Return the prediction `[D]` for row `i` alone.

        A program that was compiled for fixed batch sizes is another program for another size, which may round
        elsewhere; there the row runs in the same place of the same batch, among copies of itself.
        """
        if self.backend.batch_sizes is None:
            return self.run(contexts[i : i + 1])[0]
        return self.run(np.repeat(contexts[i : i + 1], len(contexts), axis=0))[i]

    def _name(self) -> str:
        return f"{self.candidate} on {self.backend.device}"


def _check_answers(predictions: Array, answers: NDArray[np.float64], limit: float, name: str) -> None:
    if predictions.shape != answers.shape:
        raise VerificationFailed(f"{name}: it answers with shape {predictions.shape}, expected {answers.shape}")
    rows = drift(predictions, answers)
    if not rows.max() <= limit:
        raise VerificationFailed(
            f"{name}: drift from the known answers is {rows.max():.2e} (mean {rows.mean():.2e}) over {len(rows)} "
            f"probes, expected ≤ {limit:.0e}; this is not the same model here: export it again, or use another backend"
        )


def _check(found: float, limit: float, what: str) -> None:
    if not found <= limit:  # a NaN fails too
        raise VerificationFailed(
            f"{what} is {found:.2e}, expected ≤ {limit:.0e}; export it again or use another backend"
        )


def largest_difference(found: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    """Return the largest difference in one component, infinity for arrays of different shapes."""
    if found.shape != expected.shape:
        return np.inf
    return float(np.abs(found - expected).max())
