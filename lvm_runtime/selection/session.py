"""A backend that has proved itself: built, compared with the known answers, and ready for any batch size.

n probes, b batch, T context length, D vector.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from lvm_runtime.artifact.drift import (
    ATTENTION_LIMITS,
    BATCH_INVARIANCE_LIMIT,
    FP32_ABSOLUTE_LIMIT,
    LENGTH_LIMIT,
    drift,
    largest_difference,
    largest_length_difference,
    require,
)
from lvm_runtime.artifact.fingerprint import Fingerprint
from lvm_runtime.backends.base import ATTENTION_LARGEST_NORM, REDUCED_LARGEST_NORM, Array, Backend
from lvm_runtime.backends.batch_sizes import AnyBatch, Runner
from lvm_runtime.backends.lifecycle import GuardedBackend, building, proving
from lvm_runtime.backends.registry import backend_class
from lvm_runtime.errors import counted
from lvm_runtime.request import Request
from lvm_runtime.selection.candidates import Candidate
from lvm_runtime.selection.explanation import Running

_REMEDY = "this is not the same model here: export it again, or use another backend"


class Session:
    """One verified backend.

    `run_usable` returns predictions `[b, D]` for contiguous contexts `[b, T, D]`, b ≥ 1, or None if a vector is not
    finite or longer than the backend takes; as a partial function it saves a lone query two calls in Python. `answers`
    `[n, D]` are its answers to the probes, and `drift` is the largest row drift among them, both from this machine.

    The probes run in the sizes that fit their number. Of a backend with fixed batch sizes, each other size has to give
    the known answers too before it is first used: to load all of them at once may take a Mac seconds.
    """

    __slots__ = ("_guard", "answers", "backend", "candidate", "drift", "has_attention", "run_usable")

    def __init__(self, candidate: Candidate, backend: Backend, fingerprint: Fingerprint, drift_limit: float) -> None:
        self.candidate = candidate
        self.backend = backend
        self.has_attention = fingerprint.attention is not None
        self._guard = GuardedBackend(backend)
        self.run_usable = partial(self._guard.guarded, self._guard.runner.run_usable)
        runner = self._guard.runner
        self.answers, self.drift = self._verify(fingerprint, drift_limit, runner)
        if isinstance(runner, AnyBatch):
            runner.prove = partial(self._verify_size, fingerprint, drift_limit)

    @classmethod
    def open(cls, candidate: Candidate, fingerprint: Fingerprint, request: Request) -> Session:
        """Build the candidate's backend and let it answer the probes.

        Raises BackendUnavailable or ArtifactError if it cannot be built here, VerificationFailed if its answers
        are off.
        """
        kind = backend_class(candidate.backend)
        with building(), proving(candidate.source, exported=kind.format is not None):
            backend = kind(
                candidate.source, device=candidate.device, threads=request.threads, precision=candidate.precision
            )
            if backend.batch_sizes is None:
                backend.batch_sizes = candidate.batch_sizes
            measured = candidate.largest_norm
            if measured is None and backend.precision != "fp32":
                measured = REDUCED_LARGEST_NORM if fingerprint.attention is None else ATTENTION_LARGEST_NORM
            if measured is not None:
                backend.largest_norm = min(backend.largest_norm, measured)
            try:
                return cls(candidate, backend, fingerprint, request.drift_limit(backend.precision))
            except BaseException:
                backend.close()
                raise

    def run(self, contexts: Array) -> Array:
        """Return predictions `[b, D]`, whatever the contexts hold."""
        return self._guard.run(contexts)

    def run_with_attention(self, contexts: Array) -> tuple[Array, Array]:
        """Return predictions `[b, D]` and attention `[b, T]`."""
        return self._guard.run_with_attention(contexts)

    @property
    def closed(self) -> bool:
        """Whether runs are an LvmError by now."""
        return self._guard.closed

    def close(self) -> None:
        """Wait for the runs that are under way and release the backend; later runs are an LvmError."""
        self._guard.close()

    def describe(self) -> Running:
        """Return what runs where."""
        b = self.backend
        return Running(b.name, b.device, b.precision, b.threads, self.candidate.file, self.drift, b.instructions)

    def _verify_size(self, fingerprint: Fingerprint, limit: float, size: int) -> None:
        self._verify(fingerprint, limit, AnyBatch(self.backend, (size,)), f" at batch size {size}")

    def _verify(self, fingerprint: Fingerprint, limit: float, runner: Runner, where: str = "") -> tuple[Array, float]:
        """Compare the answers to the probes with the known ones, and one probe alone with itself among others."""
        name, precision = f"{self.candidate} on {self.backend.device}{where}", self.backend.precision
        known, predictions = fingerprint.predictions, runner.run(fingerprint.contexts)
        off = largest_difference(predictions, known)
        drifts = drift(predictions, known) if predictions.shape == known.shape else np.array([np.inf])
        what = f"{name}: drift from the known answers (mean {drifts.mean():.2e} of {counted(len(known), 'probe')})"
        require(float(drifts.max()), limit, what, _REMEDY)
        if precision == "fp32":
            require(off, FP32_ABSOLUTE_LIMIT, f"{name}: largest difference to the known answers", _REMEDY)
        longer = largest_length_difference(predictions, known)
        require(longer, LENGTH_LIMIT, f"{name}: largest difference in length to the known answers", _REMEDY)
        for i in (0, len(predictions) - 1):
            change = largest_difference(self._without_mates(fingerprint.contexts, i, runner), predictions[i])
            require(change, BATCH_INVARIANCE_LIMIT, f"{name}: change of probe {i} without its batch-mates", _REMEDY)
        if fingerprint.attention is not None:
            again, attention = runner.run_with_attention(fingerprint.contexts)
            off = largest_difference(attention, fingerprint.attention)
            require(off, ATTENTION_LIMITS[precision], f"{name}: largest attention difference", _REMEDY)
            change = largest_difference(again, predictions)
            require(change, BATCH_INVARIANCE_LIMIT, f"{name}: change when attention is asked for", _REMEDY)
        return predictions, float(drifts.max())

    def _without_mates(self, contexts: Array, i: int, runner: Runner) -> Array:
        """Return the prediction `[D]` for row `i` alone.

        A program that was compiled for fixed batch sizes is another program for another size, which may round
        elsewhere; there the row runs in the same place of the same batch, among copies of itself.
        """
        if self.backend.batch_sizes is None:
            return runner.run(contexts[i : i + 1])[0]
        return runner.run(np.repeat(contexts[i : i + 1], len(contexts), axis=0))[i]
