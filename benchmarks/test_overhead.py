"""What `Predictor.predict` adds to the backend's own call at batch 1, in microseconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks.harness.workload import Workload
from lvm_runtime import Predictor
from lvm_runtime.artifact.drift import DRIFT_LIMITS, max_drift
from lvm_runtime.backends.base import Backend
from lvm_runtime.backends.native import NativeBackend
from lvm_runtime.backends.onnx import OnnxBackend
from lvm_runtime.selection.timing import interleave

ROUNDS, CALLS, SECONDS = 60, 50, 1.0


def _bare(backend: Backend, context: Any) -> Callable[[], Any]:
    """Return the call of the runtime under `backend`, with nothing of ours around it."""
    if isinstance(backend, OnnxBackend):
        session = backend._session
        return lambda: session.run(["prediction"], {"context": context})[0]
    assert isinstance(backend, NativeBackend)
    engine, prediction = backend._open(), np.empty((1, context.shape[2]), np.float32)

    def run() -> Any:
        engine.run(context, prediction)
        return prediction

    return run


@pytest.mark.parametrize("backend", ["onnx", "native"])
def test_overhead(backend: str, benchmark: Any, workload: Workload) -> None:
    """Time both in turns, one thread; the overhead is the median of the differences within rounds."""
    if backend == "native":
        pytest.importorskip("lvm_runtime.native._engine", reason="not measured: the extension is not built")
    precision = "int8" if backend == "native" else "fp32"
    workload.export(backend, precision)
    context = workload.batch(1)
    with Predictor(workload.artifact.path, backend=backend, precision=precision, threads=1) as predictor:
        raw = _bare(predictor._open_session().backend, context)

        def ours() -> Any:
            return predictor.predict(context)

        np.testing.assert_array_equal(ours(), raw())
        assert max_drift(ours(), workload.answers(1)) <= DRIFT_LIMITS[precision]
        timings = interleave({"raw": raw, "ours": ours}, rounds=ROUNDS, seconds=SECONDS, rest=0.0, max_calls=CALLS)
        benchmark(ours)
    bare, whole = (np.array(timings[name].round_medians) for name in ("raw", "ours"))
    benchmark.extra_info.update(
        model=workload.architecture,
        backend=backend,
        backend_microseconds=1e6 * float(np.median(bare)),
        overhead_microseconds=1e6 * float(np.median(whole - bare)),
    )
