"""The onnxruntime backend among other users of onnxruntime in the same process."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from lvm_runtime.backends.onnx import OnnxBackend
from tests.artifacts_for_tests import make_artifact, some_contexts


@pytest.mark.parametrize("threads", [None, 1, 3], ids=["default", "one", "three"])
def test_other_sessions_of_the_process_still_work(threads: int | None, tmp_path: Path) -> None:
    file = make_artifact(tmp_path / "amn").path / "onnx/fp32.onnx"
    backend = OnnxBackend(file, threads=threads)
    theirs = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    contexts = some_contexts(4)
    np.testing.assert_allclose(
        backend.run(contexts), theirs.run(["prediction"], {"context": contexts})[0], atol=1e-6, rtol=0
    )


def test_an_idle_session_leaves_the_cpus_to_others(tmp_path: Path) -> None:
    file = make_artifact(tmp_path / "amn", dim=256, attention_dim=128, hidden_dim=256, bottleneck_dim=128).path
    backend = OnnxBackend(file / "onnx/fp32.onnx", threads=2)
    contexts = some_contexts(64, 256)
    shares = []
    for _ in range(20):
        backend.run(contexts)
        used, began = time.process_time(), time.perf_counter()
        time.sleep(0.005)
        shares.append((time.process_time() - used) / (time.perf_counter() - began))
    assert np.median(shares) < 0.25  # a thread that spins for a millisecond or more, as by default, uses half of it


def test_lone_queries_at_the_same_moment_keep_apart(tmp_path: Path) -> None:
    backend = OnnxBackend(make_artifact(tmp_path / "gru").path / "onnx/fp32.onnx", threads=1)
    contexts = some_contexts(8)
    expected = [backend.run(contexts[i : i + 1]) for i in range(8)]
    np.testing.assert_allclose(np.concatenate(expected), backend.run(contexts), atol=1e-6, rtol=0)

    def ask(i: int) -> bool:
        return all(np.array_equal(backend.run(contexts[i : i + 1]), expected[i]) for _ in range(300))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(8)))
