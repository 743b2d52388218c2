"""What `Predictor.predict` adds to the backend's own call at batch 1, in microseconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness.workload import Workload
from lvm_runtime import Predictor

ROUNDS, CALLS = 60, 50


def _seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - began) / CALLS


def test_overhead(benchmark: Any, workload: Workload) -> None:
    """Time both in turns, one thread; the overhead is the median of the differences within rounds."""
    workload.export("onnx", "fp32")
    context = workload.batch(1)
    with Predictor(workload.artifact.path, backend="onnx", threads=1) as predictor:
        session = predictor._open_session().backend._session  # type: ignore[attr-defined]

        def raw() -> Any:
            return session.run(["prediction"], {"context": context})[0]

        def ours() -> Any:
            return predictor.predict(context)

        np.testing.assert_array_equal(ours(), raw())
        np.testing.assert_allclose(ours(), workload.answers(1), rtol=0, atol=2e-5)
        pairs = [(_seconds(raw), _seconds(ours)) for _ in range(ROUNDS)]
        benchmark(ours)
    benchmark.extra_info.update(
        model=workload.architecture,
        backend_microseconds=1e6 * float(np.median([own for own, _ in pairs])),
        overhead_microseconds=1e6 * float(np.median([full - own for own, full in pairs])),
    )
