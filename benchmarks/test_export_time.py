"""How long an export takes, its verification against the training form included."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.harness.replay import replay
from benchmarks.harness.workload import Workload
from lvm_runtime.errors import BackendUnavailable

EXPORTS = (("onnx", "fp32"), ("onnx", "int8"), ("native", "int8"), ("torchscript", "fp32"), ("coreml", "fp16"))


@pytest.mark.parametrize(("format", "precision"), EXPORTS, ids=["-".join(export) for export in EXPORTS])
def test_export(format: str, precision: str, workload: Workload, recorded_benchmark: Any) -> None:
    """Report the one export that this session made of this form."""
    try:
        workload.export(format, precision)
    except BackendUnavailable as error:
        pytest.skip(f"not measured: {error}")
    [compiled] = workload.artifact.find(format, precision=precision)
    recorded_benchmark.group = f"export {workload.architecture}"
    recorded_benchmark.extra_info.update(
        suite="export", model=workload.architecture, bytes=compiled.file.bytes, drift=compiled.drift
    )
    replay(recorded_benchmark, [workload.export_seconds[compiled.file.path]])
