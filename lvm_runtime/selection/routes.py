"""Which verified form answers which batch size, and how that is decided when a Predictor is built.

What is asked for by name is used or is an error. What is left open goes to the fastest form that was measured here:

1. One light form fits (the usual case: fp32 over onnxruntime): it is opened, nothing is timed.
2. Several light forms fit: they are timed once per machine, a few hundredths of a second each, and the result is kept.
3. Heavy frameworks (torch, OpenVINO, coremltools) are not loaded just to find out. They join once `lvm-runtime tune`
   has measured them, or when no light form fits (torch.compile only in the first case: building it takes too long).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from lvm_runtime.artifact.drift import BATCH_INVARIANCE_LIMIT
from lvm_runtime.artifact.fingerprint import Fingerprint
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends.registry import BACKENDS
from lvm_runtime.errors import ArtifactError, BackendUnavailable, LvmError, VerificationFailed
from lvm_runtime.request import AUTO, Request
from lvm_runtime.selection import measurements
from lvm_runtime.selection.candidates import Candidate, Refusal, list_candidates
from lvm_runtime.selection.explanation import Route
from lvm_runtime.selection.measurements import BATCHES, Identity, Measurement
from lvm_runtime.selection.session import Session, largest_difference
from lvm_runtime.selection.tuning import REGIME_STARTS, fastest, measure
from lvm_runtime.system.cpus import usable_cpus

_UNTRIED = "not tried, because it loads a heavy framework; `lvm-runtime tune` measures it"


class Routes:
    """The sessions of a Predictor, by regime of batch sizes; often one and the same."""

    __slots__ = ("large", "single", "small")

    def __init__(self, single: Session, small: Session, large: Session) -> None:
        self.single, self.small, self.large = single, small, large

    def for_batch(self, batch: int) -> Session:
        """Return the session for a batch size."""
        if batch == 1:
            return self.single
        return self.large if batch >= REGIME_STARTS[2] else self.small

    def sessions(self) -> list[Session]:
        """Return the sessions, each once."""
        return list(dict.fromkeys((self.single, self.small, self.large)))

    def describe(self) -> tuple[Route, ...]:
        """Return which batch sizes go where."""
        used = (self.single, self.small, self.large)
        return tuple(_route(session, [i for i in range(3) if used[i] is session]) for session in self.sessions())

    def close(self) -> None:
        """Release every backend."""
        for session in self.sessions():
            session.backend.close()


def open_routes(artifact: Artifact, request: Request) -> tuple[Routes, list[Refusal]]:
    """Open the forms that serve `request`, and say what was ruled out and why.

    Raises the error of a backend that was asked for by name; BackendUnavailable with all reasons if nothing fits.
    """
    candidates, refused = list_candidates(artifact, request)
    known = {m.identity: m for m in measurements.load(artifact, request.threads or usable_cpus())}
    fingerprint = artifact.read_fingerprint()
    failure: LvmError | None = None
    first, later = _tiers(candidates, request, known)
    for tier in filter(None, (first, [c for c in later if not BACKENDS[c.backend].slow_to_build])):
        if len(tier) > 1 and any(c.identity not in known for c in tier):
            known |= {m.identity: m for m in measure(artifact, request, tier)}
        for candidate in list(tier):
            if problem := candidate.identity in known and known[candidate.identity].problem:
                refused.append(Refusal(str(candidate), problem))
                tier.remove(candidate)
        while tier:
            picks = _pick(tier, known, request)
            try:
                routes = _open(picks, fingerprint, request)
            except _Failed as failed:
                refused.append(Refusal(str(failed.candidate), str(failed.error)))
                tier.remove(failed.candidate)
                failure = failed.error
                if request.backend == AUTO and isinstance(failure, VerificationFailed):
                    warnings.warn(f"not used, because it is not the model that it should be: {failure}", stacklevel=4)
            else:
                slower = [Refusal(str(c), _slower(known[c.identity])) for c in tier if c not in picks]
                untried = [Refusal(str(c), _UNTRIED) for c in later if tier is first]
                return routes, refused + slower + untried
    if failure is not None and request.backend != AUTO:
        raise failure
    reasons = "; ".join(map(str, refused))
    raise BackendUnavailable(f"{artifact.path}: no form of it can serve this request here: {reasons}")


class _Failed(Exception):
    def __init__(self, candidate: Candidate, error: LvmError) -> None:
        super().__init__(str(error))
        self.candidate, self.error = candidate, error


def _tiers(
    candidates: list[Candidate], request: Request, known: dict[Identity, Measurement]
) -> tuple[list[Candidate], list[Candidate]]:
    """Split into what is tried first, and what only if that fails."""
    if request.backend != AUTO:
        return candidates, []
    first = [c for c in candidates if c.light or c.identity in known]
    return first, [c for c in candidates if c not in first]


def _pick(
    tier: Sequence[Candidate], known: dict[Identity, Measurement], request: Request
) -> tuple[Candidate, Candidate, Candidate]:
    if len(tier) == 1:
        return tier[0], tier[0], tier[0]
    by_identity = {c.identity: c for c in tier}
    single, small, large = fastest([known[identity] for identity in by_identity], request.typical_batch)
    return by_identity[single.identity], by_identity[small.identity], by_identity[large.identity]


def _open(picks: tuple[Candidate, Candidate, Candidate], fingerprint: Fingerprint, request: Request) -> Routes:
    sessions: dict[Candidate, Session] = {}
    try:
        for candidate in dict.fromkeys(picks):
            try:
                sessions[candidate] = session = Session.open(candidate, fingerprint, request)
                _check_agreement(session, next(iter(sessions.values())))
            except (BackendUnavailable, VerificationFailed, ArtifactError) as error:
                raise _Failed(candidate, error) from error
    except BaseException:
        for session in sessions.values():
            session.backend.close()
        raise
    return Routes(*(sessions[candidate] for candidate in picks))


def _check_agreement(session: Session, first: Session) -> None:
    difference = largest_difference(session.answers, first.answers)
    if not difference <= BATCH_INVARIANCE_LIMIT:
        raise VerificationFailed(
            f"{session.candidate}: its answers differ by {difference:.1e} from those of {first.candidate}, "
            f"which serves other batch sizes; expected ≤ {BATCH_INVARIANCE_LIMIT:.0e}"
        )


def _slower(measured: Measurement) -> str:
    rates = " / ".join(f"{batch / t:,.0f}" for batch, t in zip(BATCHES, measured.seconds, strict=True))
    return f"slower here: {rates} predictions/s at batch {' / '.join(map(str, BATCHES))}"


def _route(session: Session, regimes: list[int]) -> Route:
    names = ("batch 1", f"batches 2 to {REGIME_STARTS[2] - 1}", f"batches from {REGIME_STARTS[2]}")
    batches = "every batch" if len(regimes) == len(names) else " and ".join(names[i] for i in regimes)
    backend, candidate = session.backend, session.candidate
    return Route(
        batches, backend.name, backend.device, candidate.precision, backend.threads, candidate.file, session.drift
    )
