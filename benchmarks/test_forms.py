"""Plain, rewritten and native forms side by side: what each brings, against the targets that were set.

The plain side is the training form as PyTorch's own exporter writes it, in an onnxruntime session that gets the batch
as it is; the forms run as the backend runs them, a large batch in slices, without the predictor around it. Beside them
runs onnxruntime's `quantize_dynamic`, whose answers may depend on the rest of the batch. Each has the
same number of threads, in turns, and every answer is checked first. The sides of one architecture and batch size are
timed together.

B batch, T context length, D vector.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from benchmarks.harness.arena import PEER_DRIFT_LIMIT, Arena
from benchmarks.harness.contender import ANCHOR, Runner
from benchmarks.harness.contenders import contender
from benchmarks.harness.replay import replay
from benchmarks.harness.workload import Workload
from lvm_runtime.artifact.drift import BATCH_INVARIANCE_LIMIT, DRIFT_LIMITS, largest_difference, max_drift
from lvm_runtime.backends.native import NativeBackend
from lvm_runtime.backends.onnx import OnnxBackend
from lvm_runtime.errors import LvmError
from lvm_runtime.selection.timing import Timing, median_interval, speedup, speedups

BATCHES = (1, 8, 32, 128, 1024)
DYNAMIC = "dynamic-int8"
THREADS = 1
SIDES = ("plain-fp32", "form-fp32", "native-fp32", "form-int8", "native-int8", DYNAMIC)

MINIMUM = {  # times the plain side's speed: fp32 at batch ≥ 32, int8 at batch ≥ 32, int8 at batch 1
    "amn": (1.4, 3.0, 1.5),
    "lstm": (1.05, 2.7, 3.0),
    "gru": (1.0, 2.3, 2.0),
    "transformer": (1.15, 2.7, 3.0),
}
NATIVE = {  # times the plain side's speed, then times `quantize_dynamic`'s; each at batch ≥ 32 and at batch 1
    "amn": ((5.6, 4.5), (1.9, 2.2)),
    "lstm": ((4.1, 6.6), (1.28, 1.3)),
    "gru": ((4.6, 9.0), (4.0, 7.0)),
    "transformer": ((5.0, 4.5), (1.7, 1.5)),
}
AIM = {"amn": (1.4, 5.0, 3.0), "lstm": (1.05, 4.5, 4.0), "gru": (1.0, 4.5, 4.0), "transformer": (1.15, 4.5, 4.0)}


def target(table: dict[str, tuple[float, float, float]], architecture: str, side: str, batch: int) -> float | None:
    """Return the ratio to the plain side that `table` asks for, or None where it asks for nothing."""
    if architecture not in table or side == DYNAMIC:
        return None
    if side == "native-int8":
        return native_target(architecture, batch)[0]
    fp32, int8, int8_alone = table[architecture]
    if side == "form-int8" and batch == 1:
        return int8_alone
    return None if batch < 32 or side == "plain-fp32" else int8 if side == "form-int8" else fp32


def native_target(architecture: str, batch: int) -> tuple[float | None, float | None]:
    """Return the ratios to the plain side and to `quantize_dynamic` that the native form is to reach."""
    if architecture not in NATIVE or 1 < batch < 32:
        return None, None
    plain, dynamic = NATIVE[architecture]
    return plain[batch == 1], dynamic[batch == 1]


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
            limit = PEER_DRIFT_LIMIT if name == DYNAMIC else DRIFT_LIMITS[name.rpartition("-")[2]]
            assert self.drifts[name] <= limit, name
            alone = runners[name](contexts[-1:])
            assert name == DYNAMIC or largest_difference(alone, predictions[-1:]) <= BATCH_INVARIANCE_LIMIT, name
        self.timings: dict[str, Timing] = arena.effort.interleave(
            {name: partial(run, contexts) for name, run in runners.items()}, anchor=SIDES[0]
        )


def _runner(workload: Workload, side: str) -> Runner:
    form, _, precision = side.partition("-")
    if form in ("plain", "dynamic"):
        return contender(ANCHOR if form == "plain" else "peer-onnxruntime-dynamic-int8").build(workload, THREADS)
    backend: type[NativeBackend] | type[OnnxBackend] = NativeBackend if form == "native" else OnnxBackend
    if backend is NativeBackend:
        NativeBackend.load_framework()  # an error here says what is missing
    workload.export(backend.name, precision)
    (compiled,) = workload.artifact.find(backend.name, precision=precision)
    return backend(workload.artifact.file(compiled), threads=THREADS, precision=precision).run


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
    dynamic = race.timings.get(DYNAMIC)
    over_dynamic = speedup(timing, dynamic) if dynamic else None
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
        ratio_to_dynamic=over_dynamic,
        minimum_to_dynamic=native_target(name, batch)[1] if side == "native-int8" else None,
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
