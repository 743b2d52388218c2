"""Plain and rewritten forms side by side: what rewriting and int8 bring, against the targets that were set.

The plain side is the training form as PyTorch's own exporter writes it, in an onnxruntime session that gets the batch
as it is; the forms run as the backend runs them, a large batch in slices, without the predictor around it. Each has the
same number of threads, in turns, and every answer is checked first. The sides of one architecture and batch size are
timed together.

B batch, T context length, D vector.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from benchmarks.harness.arena import Arena
from benchmarks.harness.contender import ANCHOR, Runner
from benchmarks.harness.contenders import contender
from benchmarks.harness.replay import replay
from benchmarks.harness.workload import Workload
from lvm_runtime.artifact.drift import BATCH_INVARIANCE_LIMIT, DRIFT_LIMITS, largest_difference, max_drift
from lvm_runtime.backends.onnx import OnnxBackend
from lvm_runtime.errors import LvmError
from lvm_runtime.selection.timing import Timing, median_interval, speedup, speedups

BATCHES = (1, 8, 32, 128, 1024)
THREADS = 1
SIDES = ("plain-fp32", "form-fp32", "form-int8")

MINIMUM = {  # times the plain side's speed: fp32 at batch ≥ 32, int8 at batch ≥ 32, int8 at batch 1
    "amn": (1.4, 3.0, 1.5),
    "lstm": (1.05, 2.7, 3.0),
    "gru": (1.0, 2.3, 2.0),
    "transformer": (1.15, 2.7, 3.0),
}
AIM = {"amn": (1.4, 5.0, 3.0), "lstm": (1.05, 4.5, 4.0), "gru": (1.0, 4.5, 4.0), "transformer": (1.15, 4.5, 4.0)}


def target(table: dict[str, tuple[float, float, float]], architecture: str, side: str, batch: int) -> float | None:
    """Return the ratio to the plain side that `table` asks for, or None where it asks for nothing."""
    if architecture not in table:
        return None
    fp32, int8, int8_alone = table[architecture]
    if side == "form-int8" and batch == 1:
        return int8_alone
    return None if batch < 32 or side == "plain-fp32" else {"form-fp32": fp32, "form-int8": int8}[side]


class FormRace:
    """The sides of one architecture at one batch size, checked and then timed in turns; `failed` says which cannot."""

    def __init__(self, workload: Workload, batch: int, arena: Arena) -> None:
        contexts = workload.batch(batch)
        self.drifts: dict[str, float] = {}
        self.failed: dict[str, str] = {}
        runners: dict[str, Runner] = {}
        for name in SIDES:
            try:
                runners[name] = _runner(workload, name)
            except LvmError as error:
                self.failed[name] = str(error)
                continue
            predictions = runners[name](contexts)
            self.drifts[name] = max_drift(predictions, workload.answers(batch))
            assert self.drifts[name] <= DRIFT_LIMITS[name.rpartition("-")[2]], name
            alone = runners[name](contexts[-1:])
            assert largest_difference(alone, predictions[-1:]) <= BATCH_INVARIANCE_LIMIT, name
        self.timings: dict[str, Timing] = arena.effort.interleave(
            {name: partial(run, contexts) for name, run in runners.items()}, anchor=SIDES[0]
        )


def _runner(workload: Workload, side: str) -> Runner:
    form, _, precision = side.partition("-")
    if form == "plain":
        return contender(ANCHOR).build(workload, THREADS)
    workload.export("onnx", precision)
    (compiled,) = workload.artifact.find("onnx", precision=precision)
    return OnnxBackend(workload.artifact.file(compiled), threads=THREADS, precision=precision).run


@pytest.fixture(scope="session")
def form_races() -> dict[tuple[str, int], FormRace]:
    """Races run so far, by architecture and batch size."""
    return {}


@pytest.mark.parametrize("side", SIDES)
def test_form(
    side: str,
    workload: Workload,
    batch: int,
    arena: Arena,
    form_races: dict[tuple[str, int], FormRace],
    recorded_benchmark: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Time one side; its ratio to the plain side is printed beside the target."""
    name = workload.architecture
    if (name, batch) not in form_races:
        form_races[name, batch] = FormRace(workload, batch, arena)
    race = form_races[name, batch]
    if side in race.failed:
        pytest.fail(f"{side} was not measured: {race.failed[side]}", pytrace=False)
    timing = race.timings[side]
    ratio = speedup(timing, race.timings["plain-fp32"])
    minimum, aim = (target(table, name, side, batch) for table in (MINIMUM, AIM))
    recorded_benchmark.group = f"forms {name} batch {batch}"
    recorded_benchmark.extra_info.update(
        suite="forms",
        model=name,
        batch=batch,
        contender=side,
        threads=THREADS,
        predictions_per_second=batch / timing.median,
        ratio_to_plain=ratio,
        ratio_interval=median_interval(speedups(timing, race.timings["plain-fp32"])),
        minimum=minimum,
        aim=aim,
        noise=timing.spread,
        drift=race.drifts[side],
    )
    replay(recorded_benchmark, timing.calls)
    with capsys.disabled():
        goal = (
            "" if minimum is None else f"  target {minimum:.2f}, aim {aim:.2f}{'' if ratio >= minimum else '  MISSED'}"
        )
        print(f"\n{name:12s} batch {batch:5d}  {side:10s} {batch / timing.median:9.0f}/s  {ratio:5.2f}x plain{goal}")
