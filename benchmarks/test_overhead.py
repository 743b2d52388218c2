"""What `Predictor.predict` adds to the backend's own call at batch 1, in microseconds."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.harness.workload import Workload
from lvm_runtime import Predictor
from lvm_runtime.selection.timing import interleave

ROUNDS, CALLS, SECONDS = 60, 50, 1.0


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
        timings = interleave({"raw": raw, "ours": ours}, rounds=ROUNDS, seconds=SECONDS, rest=0.0, max_calls=CALLS)
        benchmark(ours)
    backend, whole = (np.array(timings[name].round_medians) for name in ("raw", "ours"))
    benchmark.extra_info.update(
        model=workload.architecture,
        backend_microseconds=1e6 * float(np.median(backend)),
        overhead_microseconds=1e6 * float(np.median(whole - backend)),
    )
