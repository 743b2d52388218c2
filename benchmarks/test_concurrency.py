"""64 callers with one context each: `predict` under concurrency against a batcher."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.harness.workload import Workload
from lvm_runtime import Predictor
from lvm_runtime.artifact.drift import FP32_ABSOLUTE_LIMIT, largest_difference

CALLERS, ROUNDS, SECONDS = 64, 5, 1.5
MAX_DELAY_MS = 2.0


@dataclass(frozen=True, slots=True)
class Load:
    """What 64 callers saw: predictions per second in all, and each one's wait in milliseconds."""

    per_second: float
    median_ms: float
    p99_ms: float


def _under_load(call: Callable[[Any], Any], workload: Workload, seconds: float) -> Load:
    """Let every caller ask again as soon as it has its answer, and check every answer."""
    contexts, answers = workload.batch(CALLERS), workload.answers(CALLERS)
    waits: list[float] = []
    wrong: list[float] = []
    stop = time.perf_counter() + seconds

    def caller(number: int) -> None:
        while time.perf_counter() < stop:
            asked = time.perf_counter()
            answer = call(contexts[number])
            waits.append(time.perf_counter() - asked)
            if not (off := largest_difference(answer, answers[number])) <= FP32_ABSOLUTE_LIMIT:
                wrong.append(off)

    callers = [threading.Thread(target=caller, args=(number,)) for number in range(CALLERS)]
    began = time.perf_counter()
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    elapsed = time.perf_counter() - began
    assert not wrong, f"{len(wrong)} answers are off, by up to {max(wrong):.1e}"
    return Load(len(waits) / elapsed, 1e3 * float(np.median(waits)), 1e3 * float(np.percentile(waits, 99)))


def _full_batch_ms(predictor: Predictor, workload: Workload) -> float:
    """Return the median milliseconds of five full batches."""
    contexts, seconds = workload.batch(CALLERS), []
    for _ in range(5):
        began = time.perf_counter()
        predictor.predict(contexts)
        seconds.append(time.perf_counter() - began)
    return 1e3 * float(np.median(seconds))


def test_concurrency(benchmark: Any, workload: Workload) -> None:
    """Compare in turns, and time the full batch in each; what is recorded is the median over rounds."""
    workload.export("onnx", "fp32")
    with (
        Predictor(workload.artifact.path, backend="onnx") as predictor,
        predictor.batcher(max_batch=CALLERS, max_delay_ms=MAX_DELAY_MS) as batcher,
    ):

        def together(context: Any) -> Any:
            return batcher.submit(context).result()

        _under_load(together, workload, 0.3)
        rounds = [
            (
                _under_load(predictor.predict, workload, SECONDS),
                _under_load(together, workload, SECONDS),
                MAX_DELAY_MS + 2 * _full_batch_ms(predictor, workload),
            )
            for _ in range(ROUNDS)
        ]
        benchmark.pedantic(together, (workload.batch(1)[0],), rounds=20)
    benchmark.extra_info.update(
        model=workload.architecture,
        callers=CALLERS,
        predict_per_second=float(np.median([alone.per_second for alone, _, _ in rounds])),
        batcher_per_second=float(np.median([batched.per_second for _, batched, _ in rounds])),
        ratio=float(np.median([batched.per_second / alone.per_second for alone, batched, _ in rounds])),
        batcher_median_ms=float(np.median([batched.median_ms for _, batched, _ in rounds])),
        batcher_p99_ms=float(np.median([batched.p99_ms for _, batched, _ in rounds])),
        p99_allowance_ms=float(np.median([allowance for _, _, allowance in rounds])),
        p99_share_of_allowance=float(np.median([batched.p99_ms / allowance for _, batched, allowance in rounds])),
    )
