"""From a fresh Python process to the first prediction: seconds, resident memory, and nothing heavy loaded.

The native form, if the engine is built, takes turns with the ONNX form, and its shares of the other's time and memory
are noted.
"""

from __future__ import annotations

import json
import subprocess
import sys
from compileall import compile_dir
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lvm_runtime
from benchmarks.harness.contenders import available
from benchmarks.harness.workload import Workload

FIRST_PREDICTION = """
import time; started = time.perf_counter()
import json, sys
import numpy as np
from lvm_runtime import Predictor
from lvm_runtime.artifact.fingerprint import random_contexts
imported = time.perf_counter()
predictor = Predictor(sys.argv[1], backend=sys.argv[2])
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
                  "peak_megabytes": peak / 1e6, "norm": norm,
                  "loaded": [name for name in ("torch", "onnxruntime") if name in sys.modules]}))
"""


FORMS = {"onnx": ("fp32", ["onnxruntime"]), "native": ("int8", [])}
"""The precision that each backend starts with, and the runtimes that may be loaded then."""


def test_startup(benchmark: Any, workload: Workload) -> None:
    """Time import, load, known-answer test and first prediction, each time in a new process."""
    backends = [name for name in FORMS if name in {contender.backend for contender in available()}]
    for name in backends:
        workload.export(name, FORMS[name][0])
    compile_dir(Path(lvm_runtime.__file__).parent, quiet=1)  # as pip does: each start would compile what has changed
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in backends}

    def start() -> None:
        for name in backends:
            command = [sys.executable, "-c", FIRST_PREDICTION, str(workload.artifact.path), name]
            runs[name].append(json.loads(subprocess.run(command, capture_output=True, check=True).stdout))

    benchmark.pedantic(start, rounds=7, warmup_rounds=1)
    for name, its in runs.items():
        for run in its:
            assert run["norm"] == pytest.approx(1, abs=1e-5)
            assert set(run["loaded"]) <= set(FORMS[name][1])
    fastest = {name: min(its, key=lambda run: run["seconds"]) for name, its in runs.items()}
    keys = ("seconds", "import", "build", "peak_megabytes")
    figures: dict[str, Any] = {key: {name: run[key] for name, run in fastest.items()} for key in keys}
    if "native" in runs:
        pairs = list(zip(runs["native"], runs["onnx"], strict=True))
        for key in ("seconds", "peak_megabytes"):
            figures[f"native_share_of_{key}"] = float(np.median([ours[key] / other[key] for ours, other in pairs]))
    benchmark.extra_info.update(figures, model=workload.architecture)
