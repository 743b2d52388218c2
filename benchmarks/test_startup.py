"""From a fresh Python process to the first prediction: seconds, resident memory, and nothing heavy loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.harness.workload import Workload

FIRST_PREDICTION = """
import time; started = time.perf_counter()
import json, sys
import numpy as np
from lvm_runtime import Predictor
from lvm_runtime.artifact.fingerprint import random_contexts
imported = time.perf_counter()
predictor = Predictor(sys.argv[1])
built = time.perf_counter()
x = random_contexts(1, predictor.config.context_length, predictor.config.dim)
norm = float(np.linalg.norm(predictor.predict(x)))
done = time.perf_counter()
if sys.platform == "linux":  # getrusage would count what the parent held when it forked
    peak = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
else:
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": done - started, "import": imported - started, "build": built - imported,
                  "peak_megabytes": peak / 1e6, "norm": norm, "torch": "torch" in sys.modules}))
"""


def test_startup(benchmark: Any, workload: Workload) -> None:
    """Time import, load, known-answer test and first prediction over ONNX, each time in a new process."""
    workload.export("onnx", "fp32")
    path = workload.artifact.path
    runs: list[dict[str, Any]] = []

    def start() -> None:
        command = [sys.executable, "-c", FIRST_PREDICTION, str(path)]
        runs.append(json.loads(subprocess.run(command, capture_output=True, check=True).stdout))

    benchmark.pedantic(start, rounds=7, warmup_rounds=1)
    for run in runs:
        assert run["norm"] == pytest.approx(1, abs=1e-5)
        assert not run["torch"]
    fastest = min(runs, key=lambda run: run["seconds"])
    benchmark.extra_info.update(fastest, model=workload.architecture)
