"""What the running process may do to a Predictor: close it, fork, overwrite, exit, ask for the absurd."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lvm_runtime import InvalidInput, LvmError, Predictor
from lvm_runtime.artifact.config import ARCHITECTURES
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends.devices import inference
from lvm_runtime.bulk.predict import predict_file
from lvm_runtime.models import load_model
from lvm_runtime.predictor import MOST_AT_ONCE
from lvm_runtime.request import Request
from lvm_runtime.selection import measurements
from lvm_runtime.selection.tuning import tune
from tests.artifacts import add_onnx, add_torchscript, make_artifact, some_contexts
from tests.conftest import AVAILABLE

Get = Callable[[str], Path]
FORMS = [("onnx", "fp32"), ("onnx", "int8"), ("openvino", "fp32"), ("openvino", "bf16"), ("torchscript", "fp32")]
FORMS += [("eager", "fp32")]


@pytest.fixture(scope="module")
def with_int8(small_artifacts: Get, tmp_path_factory: pytest.TempPathFactory) -> Get:
    """Return a function from an architecture to a copy of its small artifact with an int8 form."""
    made: dict[str, Path] = {}

    def get(architecture: str) -> Path:
        if architecture not in made:
            path = tmp_path_factory.mktemp("forms") / architecture
            shutil.copytree(small_artifacts(architecture), path)
            artifact = Artifact.load(path)
            add_onnx(artifact, load_model(artifact), "onnx/int8.onnx", precision="int8", drift=5e-4)
            made[architecture] = path
        return made[architecture]

    return get


@pytest.mark.parametrize("call", ["predict", "predict_sequence"])
@pytest.mark.parametrize("backend", ["onnx", "openvino", "torchscript", "eager"])
def test_a_close_waits_for_the_call_or_the_call_raises(small_artifacts: Get, backend: str, call: str) -> None:
    path = small_artifacts("gru")
    values = some_contexts(MOST_AT_ONCE) if call == "predict" else some_contexts(1, length=MOST_AT_ONCE + 4)[0]
    with Predictor(path, backend=backend, threads=2) as predictor:
        expected = getattr(predictor, call)(values)
    finished = 0
    for round_ in range(12):
        predictor = Predictor(path, backend=backend, threads=2)
        results: list[Any] = []
        ends: list[str] = []

        def ask(predictor: Predictor = predictor, results: list[Any] = results, ends: list[str] = ends) -> None:
            try:
                while True:
                    results.append(getattr(predictor, call)(values))
            except LvmError as error:
                ends.append(str(error))

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(0.0007 * round_)
        predictor.close()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        assert ends == ["this Predictor is closed; make a new one"] * 2
        for found in results:
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
        finished += len(results)
    assert finished


def test_a_batcher_in_use_outlives_its_predictor(small_artifacts: Get) -> None:
    contexts = some_contexts(200)
    with Predictor(small_artifacts("gru")) as predictor:
        expected = predictor.predict(contexts)
        batcher = predictor.batcher(max_batch=8)
        futures = [batcher.submit(context) for context in contexts[:24]]
    for future, row in zip(futures, expected, strict=False):
        if future.exception(20) is None:
            np.testing.assert_allclose(future.result(), row, rtol=0, atol=1e-6)
        else:
            assert "closed" in str(future.exception())
    with pytest.raises(LvmError, match="closed"):
        batcher.submit(contexts[0]).result(20)
    batcher.close()


def test_a_predictor_dropped_in_use_answers(small_artifacts: Get) -> None:
    values, found = some_contexts(MOST_AT_ONCE), []
    predictor = Predictor(small_artifacts("gru"), threads=2)
    expected = predictor.predict(values)
    thread = threading.Thread(target=lambda p: found.append(p.predict(values)), args=(predictor,))
    thread.start()
    del predictor
    gc.collect()
    thread.join(30)
    np.testing.assert_array_equal(found[0], expected)


AT_EXIT = """
import sys, threading, time
import numpy as np
from lvm_runtime import LvmError, Predictor
predictor = Predictor(sys.argv[1], backend=sys.argv[2], threads=2)
values = np.ones((1024, 5, 16), np.float32)
expected, batcher = predictor.predict(values), predictor.batcher()
def ask():
    try:
        while True:
            assert (np.abs(predictor.predict(values) - expected) < 1e-6).all()
            predictor.predict_sequence(values[:, 0])
            batcher.submit(values[0]).result()
    except LvmError:
        pass
for _ in range(3):
    threading.Thread(target=ask, daemon=True).start()
time.sleep(0.05)
"""


@pytest.mark.parametrize("backend", ["onnx", "openvino", "torchscript", "eager"])
def test_the_interpreter_exits_with_calls_under_way(small_artifacts: Get, backend: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", AT_EXIT, str(small_artifacts("gru")), backend]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("backend", "precision"), FORMS, ids="-".join)
def test_up_to_the_bound_every_row_has_norm_1(with_int8: Get, architecture: str, backend: str, precision: str) -> None:
    if precision == "bf16" and not AVAILABLE["bf16"]():
        pytest.skip("this CPU has no bf16")
    with Predictor(with_int8(architecture), backend=backend, precision=precision, threads=1) as predictor:
        largest = predictor.largest_norm
        directions = some_contexts(6)
        directions /= np.linalg.norm(directions.astype(np.float64), axis=2, keepdims=True).astype(np.float32)
        at_bound = directions * np.float32(0.999999 * largest)
        one_component = np.zeros((2, 5, 16), np.float32)
        one_component[:, :, 3] = [[largest] * 5, [0, 0, 0, 0, -largest]]
        mixed = directions.copy()
        mixed[:, 4] = at_bound[:, 4]
        for contexts in (at_bound, one_component, mixed):
            for found in (predictor.predict(contexts), predictor.predict_sequence(contexts.reshape(-1, 16))):
                norms = np.linalg.norm(found.astype(np.float64), axis=1)
                np.testing.assert_allclose(norms, 1, rtol=0, atol=1e-2 if precision == "bf16" else 1e-5)
        for tiny in (np.zeros((2, 5, 16), np.float32), directions * np.float32(1e-30)):
            found = predictor.predict(tiny)
            assert np.isfinite(found).all()
            assert (np.linalg.norm(found.astype(np.float64), axis=1) <= 1 + 1e-2).all()


@pytest.mark.parametrize("scale", [1e20, 1e37])
def test_vectors_that_are_too_long_are_refused_with_their_row(small_artifacts: Get, scale: float) -> None:
    contexts = some_contexts(MOST_AT_ONCE + 9)
    contexts[MOST_AT_ONCE + 3, 2] *= np.float32(scale)
    with Predictor(small_artifacts("amn")) as predictor:
        for call, value, where in (
            (predictor.predict, contexts, rf"row {MOST_AT_ONCE + 3}, position 2 has norm"),
            (predictor.predict, contexts[MOST_AT_ONCE + 3], r"row 0, position 2 has norm"),
            (predictor.predict_sequence, contexts[MOST_AT_ONCE:].reshape(-1, 16), r"row 17 has norm"),
        ):
            with pytest.raises(InvalidInput, match=where + r".* expected at most 1e\+06"):
                call(value)


@pytest.mark.parametrize("kind", ["contexts", "vectors"])
def test_a_vector_that_is_too_long_is_a_bad_row_of_a_file(small_artifacts: Get, tmp_path: Path, kind: str) -> None:
    values = some_contexts(300) if kind == "contexts" else some_contexts(1, length=304)[0]
    values[280] *= np.float32(1e20)
    np.save(tmp_path / "in.npy", values)
    with Predictor(small_artifacts("amn")) as predictor:
        with pytest.raises(InvalidInput, match=r"row 280.* has norm .*expected at most 1e\+06; give --skip-bad"):
            predict_file(predictor, tmp_path / "in.npy", tmp_path / "out.npy", progress=False)
        result = predict_file(predictor, tmp_path / "in.npy", tmp_path / "out.npy", skip_bad=True, progress=False)
    bad = np.flatnonzero(np.isnan(np.load(tmp_path / "out.npy")).any(axis=1))
    assert bad.tolist() == ([280] if kind == "contexts" else [276, 277, 278, 279, 280])
    assert result.bad == len(bad)


def _strided(array: Any, shape: tuple[int, ...], strides: tuple[int, ...]) -> Any:
    return np.lib.stride_tricks.as_strided(array, shape, strides)


@pytest.mark.parametrize(
    "out_of",
    [
        lambda v: v[4:],
        lambda v: v[:-4],
        lambda v: _strided(np.zeros(16, np.float32), (3000, 16), (0, 4)),
        lambda v: _strided(np.zeros(3016, np.float32), (3000, 16), (4, 4)),
    ],
    ids=["ahead", "in place", "stride 0", "sliding"],
)
def test_an_out_that_lies_on_the_input_or_on_itself_is_refused(small_artifacts: Get, out_of: Any) -> None:
    vectors = some_contexts(1, length=3004)[0]
    before = vectors.copy()
    with Predictor(small_artifacts("amn")) as predictor:
        with pytest.raises(InvalidInput, match=r"shares memory with the input|lie on each other"):
            predictor.predict_sequence(vectors, out=out_of(vectors))
        batch = _strided(vectors, (3000, 5, 16), (64, 64, 4))
        with pytest.raises(InvalidInput, match=r"shares memory with the input|lie on each other"):
            predictor.predict(batch, out=out_of(vectors))
    np.testing.assert_array_equal(vectors, before)


def test_an_out_beside_the_input_is_filled(small_artifacts: Get) -> None:
    both = np.zeros((3000, 6, 16), np.float32)
    both[:, :5] = some_contexts(3000)
    with Predictor(small_artifacts("amn")) as predictor:
        expected = predictor.predict(both[:, :5].copy())
        assert predictor.predict(both[:, :5], out=both[:, 5]) is not None
    np.testing.assert_array_equal(both[:, 5], expected)


def test_the_caller_may_use_its_array_again(small_artifacts: Get) -> None:
    contexts = some_contexts(8)
    buffer = np.empty((5, 16), np.float32)

    def read() -> Iterator[Any]:
        for context in contexts:
            buffer[:] = context
            yield buffer

    with Predictor(small_artifacts("amn")) as predictor, predictor.batcher(max_delay_ms=100) as batcher:
        futures = [batcher.submit(array) for array in read()]
        buffer[:] = np.nan
        found = np.stack([future.result(20) for future in futures])
        np.testing.assert_allclose(found, predictor.predict(contexts), rtol=0, atol=1e-6)
        np.testing.assert_allclose(np.stack(list(predictor.stream(read()))), found, rtol=0, atol=1e-6)


def test_a_callback_may_submit_and_close(small_artifacts: Get) -> None:
    contexts, done = some_contexts(4), threading.Event()
    with Predictor(small_artifacts("amn")) as predictor:
        batcher = predictor.batcher(max_batch=1, max_delay_ms=0, max_pending=1)
        answered = 0

        def again(future: Any) -> None:
            nonlocal answered
            answered += 1
            if answered <= 10:
                for _ in range(2):  # more than there is room for
                    batcher.submit(contexts[0]).add_done_callback(again)
            elif answered == 21:
                batcher.close()
                done.set()

        batcher.submit(contexts[0]).add_done_callback(again)
        assert done.wait(20)
        batcher._worker.join(20)
        assert not batcher._worker.is_alive()


def test_a_dropped_batcher_answers_and_frees_its_thread(small_artifacts: Get) -> None:
    with Predictor(small_artifacts("amn")) as predictor:
        batcher = predictor.batcher(max_delay_ms=10_000)
        worker, kept = batcher._worker, weakref.ref(batcher)
        future = batcher.submit(some_contexts(1)[0])
        del batcher
        gc.collect()
        assert kept() is None
        assert future.result(20).shape == (16,)
        worker.join(20)
        assert not worker.is_alive()


def test_torch_keeps_its_threads_whoever_runs_beside(small_artifacts: Get) -> None:
    def of_a_new_thread() -> int:
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        return found[0]

    before, here = of_a_new_thread(), torch.get_num_threads()
    wrong: list[tuple[int, int]] = []

    def run(count: int) -> None:
        for _ in range(100):
            with inference("cpu", count):
                time.sleep(0.0002)
                if torch.get_num_threads() != count:
                    wrong.append((count, torch.get_num_threads()))
            if torch.get_num_threads() != before:
                wrong.append((before, torch.get_num_threads()))

    threads = [threading.Thread(target=run, args=(before + more,)) for more in (0, 1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert (of_a_new_thread(), torch.get_num_threads()) == (before, here)


AFTER_FORK = """
import os, sys, time
import numpy as np
from lvm_runtime import LvmError, Predictor
path, backend, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
predictor = Predictor(path, backend=backend, threads=threads)
values = np.random.default_rng(0).standard_normal((300, 5, 256)).astype(np.float32)
expected = predictor.predict(values)
predictor.predict_sequence(values[0])
batcher = predictor.batcher()
batcher.submit(values[0]).result()
child = os.fork()
if child == 0:
    try:
        for rows in (1, 32, 300):
            found = predictor.predict(values[:rows])
            assert np.abs(found - expected[:rows]).max() < 2e-6
        found = predictor.predict_sequence(values.reshape(-1, 256))[::5]
        assert np.abs(found - expected).max() < 2e-6
        said = "answered"
    except LvmError as error:
        said = f"said {error}"
    try:
        batcher.submit(values[0])
        said = "the batcher in the child took a request"
    except LvmError as error:
        assert "before the process forked" in str(error)
    batcher.close()
    with predictor.batcher() if said == "answered" else open(os.devnull) as fresh:
        if said == "answered":
            assert np.abs(fresh.submit(values[0]).result(20) - expected[0]).max() < 2e-6
    predictor.close()
    print(said, flush=True)
    os._exit(0)
end = time.monotonic() + 40
while os.waitpid(child, os.WNOHANG) == (0, 0):
    if time.monotonic() > end:
        os.kill(child, 9)
        os.waitpid(child, 0)
        print("hung")
        break
    time.sleep(0.02)
assert np.abs(predictor.predict(values) - expected).max() < 2e-6
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("backend", ["onnx", "torchscript", "eager", "openvino"])
def test_a_forked_child_answers_or_says_why_not(tmp_path: Path, backend: str, threads: int) -> None:
    path = make_artifact(tmp_path / "lstm", "lstm", dim=256, hidden_dim=128).path
    artifact = Artifact.load(path)
    add_torchscript(artifact, load_model(artifact))
    command = [sys.executable, "-W", "ignore", "-c", AFTER_FORK, str(path), backend, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    expected = "said this Predictor was made before the process forked" if backend == "openvino" else "answered"
    assert done.stdout.startswith(expected)


@pytest.mark.parametrize("where", ["read-only", "a file", "no home"])
def test_without_a_cache_folder_forms_are_measured_and_served(
    with_int8: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    cache = tmp_path / "cache"
    if where == "no home":
        monkeypatch.delenv("LVM_CACHE")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

        def no_home() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", no_home)
    elif where == "a file":
        cache.write_text("not a folder")
        monkeypatch.setenv("LVM_CACHE", str(cache))
    else:
        monkeypatch.setenv("LVM_CACHE", "/proc/cannot-write")  # root may write anywhere else
    artifact = Artifact.load(with_int8("amn"))
    with Predictor(artifact.path, max_drift=1e-3) as predictor:
        assert predictor.predict(some_contexts(2)).shape == (2, 16)
    told: list[str] = []
    tune(artifact.path, Request("onnx", max_drift=1e-3, device="cpu"), report=told.append)
    assert any("cache folder cannot be written" in line for line in told)
    assert measurements.load(artifact, 1) == []
