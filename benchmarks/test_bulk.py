"""Rows per second from file to file, against the bare backend on the same batches in memory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.workload import Workload
from lvm_runtime import Predictor
from lvm_runtime.bulk import predict_file
from lvm_runtime.predictor import PIECE

PIECES, ROUNDS = 24, 3


def test_bulk(benchmark: Any, workload: Workload, tmp_path: Path) -> None:
    """Time both in turns; the share is the median over rounds."""
    workload.export("onnx", "fp32")
    contexts = np.concatenate([workload.batch(PIECE)] * PIECES)
    source, target = tmp_path / "contexts.npy", tmp_path / "predictions.npy"
    np.save(source, contexts)
    with Predictor(workload.artifact.path, backend="onnx") as predictor:
        backend = predictor._open_routes().large.backend

        def bare() -> float:
            began = time.perf_counter()
            for start in range(0, len(contexts), PIECE):
                backend.run(contexts[start : start + PIECE])
            return time.perf_counter() - began

        def file_to_file() -> float:
            began = time.perf_counter()
            predict_file(predictor, source, target, overwrite=True, progress=False)
            return time.perf_counter() - began

        file_to_file()
        np.testing.assert_allclose(
            np.load(target), np.concatenate([workload.answers(PIECE)] * PIECES), rtol=0, atol=2e-5
        )
        pairs = [(bare(), file_to_file()) for _ in range(ROUNDS)]
        benchmark.pedantic(file_to_file, rounds=1)
    benchmark.extra_info.update(
        model=workload.architecture,
        rows_per_second=len(contexts) / float(np.median([whole for _, whole in pairs])),
        backend_rows_per_second=len(contexts) / float(np.median([own for own, _ in pairs])),
        share_of_backend=float(np.median([own / whole for own, whole in pairs])),
    )
