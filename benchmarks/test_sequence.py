"""A document of 1,000 chunks: a prediction after every window of five.

`predict_sequence` against `predict` on the windows, and against the plain export on them, each with every CPU; in int8
the native form, if the engine is built.

N vectors of a document, T context length, D vector.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from benchmarks.harness.arena import Arena
from benchmarks.harness.contender import ANCHOR
from benchmarks.harness.contenders import contender
from benchmarks.harness.replay import replay
from benchmarks.harness.workload import Array, Workload
from lvm_runtime import Predictor
from lvm_runtime.artifact.drift import DRIFT_LIMITS, max_drift
from lvm_runtime.models import known_answers
from lvm_runtime.selection.timing import Timing, speedup
from lvm_runtime.system.cpus import usable_cpus

CHUNKS = 1000
CHECKED = 64
"""Windows at the document's start and at its end whose predictions are compared with known answers."""
PLAIN = "peer-onnxruntime-windows-fp32"
SIDES = ("lvm-predict-sequence-fp32", "lvm-predict-windows-fp32", PLAIN)
NATIVE = ("lvm-predict-sequence-int8", "lvm-predict-windows-int8")
PRESENT = (*SIDES, *NATIVE) if find_spec("lvm_runtime.native._engine") else SIDES


def document(dim: int) -> Array:
    """Return unit vectors `[N, D]` with a shared direction and a topic that drifts from chunk to chunk.

    Contexts alone have a topic that stands still; here windows overlap, as those of a document do.
    """
    rng = np.random.default_rng(0)
    topic = np.cumsum(rng.standard_normal((CHUNKS, dim)) * 0.3, axis=0)
    vectors = rng.standard_normal(dim) + topic + rng.standard_normal((CHUNKS, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


class DocumentRace:
    """The sides of one architecture, timed in turns; `drifts` holds what each was off by."""

    def __init__(self, workload: Workload, arena: Arena) -> None:
        config = workload.artifact.config
        vectors = document(config.dim)
        starts = np.arange(CHUNKS - config.context_length + 1)[:, None]
        windows = np.ascontiguousarray(vectors[starts + np.arange(config.context_length)])  # [N - T + 1, T, D]
        workload.export("onnx", "fp32")
        workload.export("onnx", "fp32", form="sequence")
        predictor = Predictor(workload.artifact.path, backend="onnx", precision="fp32", threads=usable_cpus())
        plain = arena.runner(workload, contender(ANCHOR), usable_cpus())
        sides: dict[str, Callable[[], Array]] = dict(
            zip(
                SIDES,
                (
                    lambda: predictor.predict_sequence(vectors),
                    lambda: predictor.predict(windows),
                    lambda: plain(windows),
                ),
                strict=True,
            )
        )
        if len(PRESENT) > len(SIDES):
            workload.export("native", "int8")
            workload.export("native", "int8", form="sequence")
            native = Predictor(workload.artifact.path, backend="native", threads=usable_cpus())
            calls = (lambda: native.predict_sequence(vectors), lambda: native.predict(windows))
            sides |= dict(zip(NATIVE, calls, strict=True))
        ends = np.r_[: min(CHECKED, len(windows)), -min(CHECKED, len(windows)) : 0]
        answers = known_answers(workload.model, windows[ends])[0]
        self.drifts = {name: max_drift(side()[ends], answers) for name, side in sides.items()}
        self.windows = len(windows)
        self.timings: dict[str, Timing] = arena.effort.interleave(sides, anchor=PLAIN)


@pytest.fixture(scope="session")
def races() -> dict[str, DocumentRace]:
    """Races run so far, by architecture."""
    return {}


@pytest.mark.parametrize("side", PRESENT)
def test_document(
    side: str, workload: Workload, arena: Arena, races: dict[str, DocumentRace], recorded_benchmark: Any
) -> None:
    """Time all windows of one document; their predictions at both ends are checked."""
    name = workload.architecture
    race = races.get(name) or races.setdefault(name, DocumentRace(workload, arena))
    assert race.drifts[side] <= DRIFT_LIMITS[side.rpartition("-")[2]]
    timing, plain = race.timings[side], race.timings[PLAIN]
    recorded_benchmark.group = f"document of {CHUNKS} chunks, {name}"
    recorded_benchmark.extra_info.update(
        suite="sequence",
        model=name,
        contender=side,
        predictions_per_second=race.windows / timing.median,
        ratio_to_plain_windows=speedup(timing, plain),
        noise=timing.spread,
        drift=race.drifts[side],
    )
    replay(recorded_benchmark, timing.calls)
