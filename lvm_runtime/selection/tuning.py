"""Choosing by measurement: time the forms of an artifact against each other here, and pick the fastest.

All forms are timed in one run, in turns and in bursts, so that a slow moment of the machine hits them alike. A
Predictor may use several of them, one per regime of batch sizes, as long as they agree with each other: otherwise a
row's answer would depend on how many others came with it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lvm_runtime.artifact.drift import BATCH_INVARIANCE_LIMIT
from lvm_runtime.artifact.fingerprint import Fingerprint
from lvm_runtime.artifact.folder import Artifact, resolve
from lvm_runtime.contexts import Array
from lvm_runtime.errors import LvmError
from lvm_runtime.request import Request
from lvm_runtime.selection import measurements
from lvm_runtime.selection.candidates import Candidate, Refusal, list_candidates
from lvm_runtime.selection.measurements import BATCHES, Measurement
from lvm_runtime.selection.session import Session
from lvm_runtime.selection.timing import interleave
from lvm_runtime.system.cpus import usable_cpus

REGIME_STARTS = (1, 2, 32)
"""The batch size from which each of BATCHES stands for the ones in use."""

WORTH_SWITCHING = 0.95
"""A second form is loaded for a regime only if it takes less than this share of the first one's time."""

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
_SAMPLE = 64


def regime(batch: int) -> int:
    """Return which of BATCHES stands for a batch size."""
    return sum(batch >= start for start in REGIME_STARTS[1:])


def tune(
    artifact: str | Path, request: Request, *, report: Callable[[str], object] = lambda line: None
) -> tuple[list[Measurement], list[Refusal]]:
    """Measure every candidate for `request` thoroughly and keep the result for later Predictors on this machine.

    Returns what was measured, problems included, and what was ruled out before. `report` is told of each form.
    """
    loaded = Artifact.load(resolve(artifact).absolute())
    candidates, refused = list_candidates(loaded, request)
    return measure(loaded, request, candidates, seconds=THOROUGH, report=report), refused


def measure(
    artifact: Artifact,
    request: Request,
    candidates: Sequence[Candidate],
    *,
    seconds: float = QUICK,
    report: Callable[[str], object] = lambda line: None,
) -> list[Measurement]:
    """Time the candidates that pass their known-answer test against each other, and save the outcome."""
    fingerprint = artifact.read_fingerprint()
    sessions: dict[Candidate, Session] = {}
    results = []
    for candidate in candidates:
        report(f"loading {candidate}")
        try:
            sessions[candidate] = Session.open(candidate, fingerprint, request)
        except LvmError as error:
            results.append(Measurement(*candidate.identity, problem=str(error)))
    try:
        times = []
        for batch in BATCHES:
            report(f"timing {len(sessions)} forms at batch {batch}")
            times.append(time_together(list(sessions.values()), _batch_of(fingerprint, batch), seconds))
    finally:
        for session in sessions.values():
            session.backend.close()
    for (candidate, session), of_batches in zip(sessions.items(), zip(*times, strict=True), strict=True):
        results.append(Measurement(*candidate.identity, session.drift, of_batches, sample_of(session.answers)))
    measurements.save(artifact, request.threads or usable_cpus(), results)
    return results


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


def fastest(measured: Sequence[Measurement], typical_batch: int | None = None) -> tuple[Measurement, ...]:
    """Return the form to use for each of BATCHES: the fastest of those that agree with each other.

    Forms are weighed by the geometric mean of their times over BATCHES, or by the time at `typical_batch`.
    """
    usable = [m for m in measured if m.problem is None]
    weighed = range(len(BATCHES)) if typical_batch is None else [regime(typical_batch)]

    def cost(times: Sequence[float]) -> float:
        return math.prod(times[i] for i in weighed)

    groups = _agreeing(usable)
    group = min(groups, key=lambda group: cost([min(times) for times in zip(*(m.seconds for m in group), strict=True)]))
    main = min(group, key=lambda m: cost(m.seconds))
    picks = []
    for i in range(len(BATCHES)):
        best = min(group, key=lambda m: m.seconds[i])
        picks.append(best if best.seconds[i] < WORTH_SWITCHING * main.seconds[i] else main)
    return tuple(picks)


def sample_of(answers: Array) -> tuple[float, ...]:
    """Return some components of the answers to all probes, by which forms that agree are recognised."""
    flat = answers.reshape(-1)
    return tuple(flat[np.linspace(0, flat.size - 1, min(_SAMPLE, flat.size)).astype(int)].tolist())


def _agreeing(measured: Sequence[Measurement]) -> list[list[Measurement]]:
    groups: list[list[Measurement]] = []
    for m in measured:
        for group in groups:
            if m.agrees_with(group[0], BATCH_INVARIANCE_LIMIT):
                group.append(m)
                break
        else:
            groups.append([m])
    return groups


def _batch_of(fingerprint: Fingerprint, batch: int) -> Array:
    probes = fingerprint.contexts
    return np.ascontiguousarray(probes[np.arange(batch) % len(probes)])
