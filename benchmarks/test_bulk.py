"""Rows per second from file to file, against the bare backend on all CPUs with the same batches in memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.harness.workload import Array, Workload
from lvm_runtime import Predictor
from lvm_runtime.bulk.predict import BLOCK, open_for_bulk, predict_file
from lvm_runtime.request import Request

SECONDS, MOST_BLOCKS, ROUNDS = 3.0, 512, 5
"""How long the backend alone takes for the file, so that opening and flushing it count for what they are; the file has
2 GB at most (D = 768)."""

DISTINCT_BLOCKS = 48
"""Batches that the backend alone gets from memory, 190 MB of them: from a cache it would be another race."""


def _write(path: Path, block: Array, run: Callable[[], object], blocks: int | None) -> int:
    """Write `block` to `path` as often as `run` runs in SECONDS, or `blocks` times, and return how often."""
    run()
    began = time.perf_counter()
    for _ in range(3):
        run()
    count = blocks or min(MOST_BLOCKS, max(4, int(3 * SECONDS / (time.perf_counter() - began))))
    file = np.lib.format.open_memmap(path, "w+", np.float32, (count * len(block), *block.shape[1:]))
    for i in range(count):
        file[i * len(block) : (i + 1) * len(block)] = block
    file.flush()
    return count


def test_bulk(benchmark: Any, workload: Workload, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Time both in turns; the share is the median over rounds."""
    workload.export("onnx", "fp32")
    block = workload.batch(BLOCK)
    source, target = tmp_path / "contexts.npy", tmp_path / "predictions.npy"
    with (
        Predictor(workload.artifact.path, backend="onnx") as alone,
        open_for_bulk(workload.artifact.path, Request(backend="onnx")) as predictor,
    ):
        backend = alone._open_session().backend
        blocks = _write(source, block, lambda: backend.run(block), 4 if request.config.getoption("--tiny") else None)

        in_memory = np.stack([block] * min(blocks, DISTINCT_BLOCKS))

        def bare() -> float:
            began = time.perf_counter()
            for i in range(blocks):
                backend.run(in_memory[i % len(in_memory)])
            return time.perf_counter() - began

        def file_to_file() -> float:
            target.unlink(missing_ok=True)  # freeing the last round's pages is no part of this one
            began = time.perf_counter()
            predict_file(predictor, source, target, progress=False)
            return time.perf_counter() - began

        file_to_file()
        found = np.load(target, mmap_mode="r").reshape(blocks, *workload.answers(BLOCK).shape)
        for predictions in found:
            np.testing.assert_allclose(predictions, workload.answers(BLOCK), rtol=0, atol=2e-5)
        del found
        pairs = [(bare(), file_to_file()) for _ in range(ROUNDS)]
        benchmark.pedantic(file_to_file, rounds=1)
    benchmark.extra_info.update(
        model=workload.architecture,
        rows=blocks * BLOCK,
        rows_per_second=blocks * BLOCK / float(np.median([whole for _, whole in pairs])),
        backend_rows_per_second=blocks * BLOCK / float(np.median([own for own, _ in pairs])),
        share_of_backend=float(np.median([own / whole for own, whole in pairs])),
    )
