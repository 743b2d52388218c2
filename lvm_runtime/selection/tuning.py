"""Choosing by measurement: time the forms of an artifact against each other here, and pick the fastest.

All forms are timed in one run, in turns and in bursts, so that what else the machine does slows all of them alike.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lvm_runtime.artifact.fingerprint import Fingerprint
from lvm_runtime.artifact.folder import Artifact, resolve
from lvm_runtime.contexts import Array
from lvm_runtime.errors import ArtifactError, BackendUnavailable, LvmError, VerificationFailed, counted
from lvm_runtime.request import Request
from lvm_runtime.selection import measurements
from lvm_runtime.selection.candidates import Candidate, Refusal, list_candidates
from lvm_runtime.selection.measurements import BATCHES, Measurement
from lvm_runtime.selection.session import Session
from lvm_runtime.selection.timing import interleave
from lvm_runtime.system.cpus import usable_cpus

_STANDS_FROM = (1, 2, 32)
"""The batch size from which each of BATCHES stands for the one in use."""

QUICK, THOROUGH = 0.03, 0.8  # seconds per form and batch size


class Rhythm(NamedTuple):
    """Seconds of rest before a burst, of calls in it that do not count, and of calls that do."""

    rest: float
    warm_up: float
    counted: float


_LIGHT = Rhythm(0.003, 0.0, 0.005)
_BESIDE_FRAMEWORKS = Rhythm(0.03, 0.03, 0.03)
"""The threads of PyTorch and OpenVINO go on spinning for work after a call, on all CPUs: with a short rest, onnxruntime
between them reached half of what it reaches alone. A CPU that has rested for so long is slow for the first 10 to 20 ms,
which cost onnxruntime as much, and the others less, because their calls take longer."""
_FEWEST_TURNS = 3


def tune(
    artifact: str | Path, request: Request, *, report: Callable[[str], object] = lambda line: None
) -> tuple[list[Measurement], list[Refusal]]:
    """Measure every candidate for `request` thoroughly and keep the result for later Predictors on this machine.

    Returns what was measured, problems included, and what was ruled out before. `report` is told of each form. A form
    whose drift here is over the request's limit has that for its problem, and is kept as measured.
    """
    loaded = Artifact.load(resolve(artifact).absolute())
    candidates, refused = list_candidates(loaded, request)
    measured = measure(loaded, request, candidates, seconds=THOROUGH, report=report)
    return [replace(m, problem=problem_for(m, request)) for m in measured], refused


def measure(
    artifact: Artifact,
    request: Request,
    candidates: Sequence[Candidate],
    *,
    seconds: float = QUICK,
    report: Callable[[str], object] = lambda line: None,
) -> list[Measurement]:
    """Time the candidates that pass their known-answer test against each other, and save the outcome.

    The test has the limit of each one's precision: the outcome serves requests with other limits too. What only this
    process cannot do, because it exits, was forked, or has no memory left for a batch, is not saved. Raises
    ArtifactError for a damaged file.
    """
    fingerprint = artifact.read_fingerprint()
    largest = _batch_of(fingerprint, BATCHES[-1])
    sessions: dict[Candidate, Session] = {}
    results: list[Measurement] = []
    passing: list[Measurement] = []
    try:
        for candidate in candidates:
            report(f"loading {candidate}")
            candidate.check(artifact)
            try:
                own = replace(request, precision=candidate.precision, max_drift=None)
                sessions[candidate] = Session.open(candidate, fingerprint, own)
                sessions[candidate].run(largest)
            except LvmError as error:
                lasting = isinstance(error, ArtifactError | BackendUnavailable | VerificationFailed)
                if lasting:
                    artifact.check_file(candidate.file)  # a writer may have exchanged it since: no fault of the form
                (results if lasting else passing).append(Measurement(*candidate.identity, problem=str(error)))
                if candidate in sessions:
                    sessions.pop(candidate).close()
        times = []
        for batch in BATCHES if sessions else ():
            report(f"timing {counted(len(sessions), 'form')} at batch {batch}")
            times.append(time_together(list(sessions.values()), _batch_of(fingerprint, batch), seconds))
    finally:
        for session in sessions.values():
            session.close()
    for (candidate, session), of_batches in zip(sessions.items(), zip(*times, strict=True), strict=True):
        results.append(Measurement(*candidate.identity, session.drift, of_batches))
    if measurements.save(artifact, request.threads or usable_cpus(), results) is None:
        report("the cache folder cannot be written: the result serves this process only; set LVM_CACHE to another")
    return results + passing


def problem_for(measured: Measurement, request: Request) -> str | None:
    """Say what keeps a form from serving `request` by what was measured of it, None if nothing does."""
    limit = request.drift_limit(measured.precision)
    if measured.problem is None and measured.drift > limit:
        return f"its drift here is {measured.drift:.1e}, over {limit:g}"
    return measured.problem


def time_together(sessions: Sequence[Session], contexts: Array, seconds: float) -> list[float]:
    """Return each session's median seconds per run, from bursts in turns; about `seconds` are spent on each."""
    rhythm = _LIGHT if all(session.candidate.light for session in sessions) else _BESIDE_FRAMEWORKS
    sides = {str(i): partial(session.run, contexts) for i, session in enumerate(sessions)}
    for run in sides.values():
        run()
    ends = time.perf_counter() + seconds * len(sides)
    timings = interleave(
        sides,
        rounds=_FEWEST_TURNS,
        seconds=rhythm.counted,
        rest=rhythm.rest,
        warm_up=rhythm.warm_up,
        more=lambda _: time.perf_counter() < ends,
    )
    return [float(np.median(timings[name].round_medians)) for name in sides]


def fastest(measured: Sequence[Measurement], typical_batch: int | None = None) -> Measurement:
    """Return the fastest form, by the geometric mean of its times over BATCHES or by the time at `typical_batch`.

    One form serves every batch size: a row's answer would otherwise depend on how many others came with it.
    """
    usable = [m for m in measured if m.problem is None]
    if typical_batch is None:
        return min(usable, key=lambda m: math.prod(m.seconds))
    index = sum(typical_batch >= start for start in _STANDS_FROM[1:])
    return min(usable, key=lambda m: m.seconds[index])


def _batch_of(fingerprint: Fingerprint, batch: int) -> Array:
    probes = fingerprint.contexts
    return np.ascontiguousarray(probes[np.arange(batch) % len(probes)])
