"""Core AI conversions: CPU time, size, operations of one function and drift, ours beside the unmodified module.

A conversion keeps one thread busy, so that its CPU time is its time where nothing else runs. The drift is measured by
executing the asset. Execution is not timed: off macOS 27 it is the slow reference runtime.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from benchmarks.harness.replay import replay
from benchmarks.harness.workload import Workload
from export.verify import SAMPLE_SEED, Sample
from lvm_runtime.artifact.fingerprint import random_contexts
from lvm_runtime.backends.coreai import CoreAIBackend

FORMS = {"ours": ("dynamic", "fp32"), "ours-static": ("static", "fp16"), "stock-static": ("static", "fp16")}


@pytest.mark.parametrize("form", FORMS)
def test_conversion(form: str, workload: Workload, recorded_benchmark: Any) -> None:
    """Report one conversion."""
    if problem := CoreAIBackend.missing():
        pytest.skip(f"not measured: {problem}")
    from export.coreai.convert import coreai_form, operations, write_asset
    from export.coreai.options import CoreAIOptions
    from export.coreai.stock import executed_drift, stock_module

    shapes, precision = FORMS[form]
    options = CoreAIOptions(shapes=shapes, precision=precision)
    module = (stock_module if form.startswith("stock") else coreai_form)(workload.model, options)
    shape = workload.artifact.config.context_length, workload.artifact.config.dim
    path = workload.scratch / f"{form}.aimodel"
    began = time.process_time()
    write_asset(module, options, shape, path)
    seconds = time.process_time() - began
    sample = Sample.of("random", workload.model, random_contexts(8, *shape, seed=SAMPLE_SEED))
    recorded_benchmark.group = f"coreai {workload.architecture}"
    recorded_benchmark.extra_info.update(
        suite="coreai",
        model=workload.architecture,
        form=f"{form.partition('-')[0]}, {shapes}, {precision}",
        cpu_seconds=seconds,
        bytes=sum(file.stat().st_size for file in path.rglob("*")),
        ops=operations(path).total(),
        drift=executed_drift(path, sample),
    )
    replay(recorded_benchmark, [seconds])
