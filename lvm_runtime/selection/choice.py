"""Which form of an artifact serves, as it is decided when a Predictor is built.

What is asked for by name is used or is an error. What is left open goes to the fastest form that was measured here:

1. One light form fits: it is opened, nothing is timed.
2. Several light forms fit: they are timed once per machine, a few hundredths of a second each, and the result is kept.
3. Heavy frameworks (torch, OpenVINO, coremltools) are not loaded just to find out. They join once they were measured
   by tuning, or when no light form fits (torch.compile only in the first case: building it takes too long).

A form that failed when it was measured is tried when no other one serves, and says then what is wrong with it now.
"""

from __future__ import annotations

import warnings

from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends.registry import backend_class
from lvm_runtime.errors import ITEM, ArtifactError, BackendUnavailable, LvmError, VerificationFailed
from lvm_runtime.request import AUTO, Request
from lvm_runtime.selection import measurements
from lvm_runtime.selection.candidates import Candidate, Refusal, list_candidates
from lvm_runtime.selection.measurements import BATCHES, Identity, Measurement
from lvm_runtime.selection.session import Session
from lvm_runtime.selection.tuning import fastest, measure, problem_for
from lvm_runtime.system.cpus import usable_cpus

_UNTRIED = "not tried, because it loads a heavy framework; `lvm-runtime tune` measures it"

Known = dict[Identity, Measurement]


def open_session(artifact: Artifact, request: Request) -> tuple[Session, list[Refusal]]:
    """Open the form that serves `request`, and say what was ruled out and why.

    Raises ArtifactError for a damaged file of a form that is tried; the error of a backend that was asked for by name;
    BackendUnavailable with all reasons if nothing fits.
    """
    candidates, refused = list_candidates(artifact, request)
    known = {m.identity: m for m in measurements.load(artifact, request.threads or usable_cpus())}
    fingerprint = artifact.read_fingerprint()
    failure: LvmError | None = None
    first, later = _tiers(candidates, request, known)
    for tier in filter(None, (first, [c for c in later if not backend_class(c.backend).slow_to_build])):
        if len(tier) > 1 and any(c.identity not in known for c in tier):
            known |= {m.identity: m for m in measure(artifact, request, tier)}
        faulty = {c: why for c in tier if c.identity in known and (why := problem_for(known[c.identity], request))}
        tier = [c for c in tier if c not in faulty]
        while tier or faulty:
            if tier:
                pick = _pick(tier, known, request)
                tier.remove(pick)
            else:
                pick = next(iter(faulty))
                del faulty[pick]
            pick.check(artifact)  # a damaged one is an error, and not a reason to take the next
            try:
                session = Session.open(pick, fingerprint, request)
            except (BackendUnavailable, VerificationFailed, ArtifactError) as error:
                artifact.check_file(pick.file)  # nor is one that a writer exchanged meanwhile
                refused.append(Refusal(str(pick), str(error)))
                failure = error
                if request.backend == AUTO and isinstance(error, VerificationFailed):
                    warnings.warn(f"not used, because it is not the model that it should be: {error}", stacklevel=6)
            else:
                worse = [Refusal(str(c), why) for c, why in faulty.items()]
                slower = [Refusal(str(c), _slower(known[c.identity])) for c in tier]
                untried = [Refusal(str(c), _UNTRIED) for c in later if pick in first]
                return session, refused + worse + slower + untried
    if failure is not None and request.backend != AUTO:
        raise failure
    reasons = "".join(f"{ITEM}{refusal}" for refusal in refused)
    raise BackendUnavailable(f"{artifact.path}: no form of it can serve this request here:{reasons}")


def _tiers(candidates: list[Candidate], request: Request, known: Known) -> tuple[list[Candidate], list[Candidate]]:
    """Split into what is tried first, and what only if that fails."""
    if request.backend != AUTO:
        return candidates, []
    first = [c for c in candidates if c.light or c.identity in known]
    return first, [c for c in candidates if c not in first]


def _pick(tier: list[Candidate], known: Known, request: Request) -> Candidate:
    if len(tier) == 1:
        return tier[0]
    best = fastest([known[c.identity] for c in tier], request.typical_batch)
    return next(c for c in tier if c.identity == best.identity)


def _slower(measured: Measurement) -> str:
    rates = " / ".join(f"{batch / t:,.0f}" for batch, t in zip(BATCHES, measured.seconds, strict=True))
    return f"slower here: {rates} predictions/s at batch {' / '.join(map(str, BATCHES))}"
