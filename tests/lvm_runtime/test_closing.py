"""Predictors that are closed, dropped or overtaken by the interpreter's exit; what is opened and not kept is closed."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.onnx.export import export_sequence
from export.source import Source
from export.verify import Sample, verify_file
from lvm_runtime import ArtifactError, LvmError, Predictor, VerificationFailed
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends.onnx import OnnxBackend
from lvm_runtime.backends.openvino import OpenVinoBackend
from lvm_runtime.bulk.predict import open_with_threads
from lvm_runtime.models import load_model
from lvm_runtime.predictor import MOST_AT_ONCE
from lvm_runtime.request import Request
from lvm_runtime.selection import sequences as sequences_module
from lvm_runtime.selection import session as session_module
from lvm_runtime.selection import tuning
from lvm_runtime.system.cpus import usable_cpus
from tests.artifacts import some_contexts

Get = Callable[[str], Path]


def test_every_call_of_a_closed_predictor_raises_where_it_would_compute_nothing_too(small_artifacts: Get) -> None:
    predictor = Predictor(small_artifacts("amn"))
    predictor.close()
    nothing, contexts = some_contexts(1)[:0], some_contexts(1)
    calls: list[Callable[[], Any]] = [
        lambda: predictor.predict(nothing),
        lambda: predictor.predict_sequence(nothing.reshape(0, nothing.shape[-1])),
        lambda: predictor.rollout(contexts, steps=0),
        lambda: predictor.rollout(nothing, steps=2),
        lambda: next(predictor.stream(contexts)),
        predictor.explain,
        predictor.__enter__,
    ]
    for call in calls:
        with pytest.raises(LvmError, match="this Predictor is closed"):
            call()


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
        while round_ % 2 and not results:  # else while the first calls load what they need
            time.sleep(0.0001)
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


def test_a_signal_handler_may_close_the_predictor_that_opens_its_form_of_documents(
    small_artifacts: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, check = Predictor(small_artifacts("gru"), backend="onnx"), Artifact.check_file

    def interrupted(artifact: Artifact, name: str) -> None:
        predictor.close()
        check(artifact, name)

    monkeypatch.setattr(Artifact, "check_file", interrupted)
    ends: list[str] = []

    def ask() -> None:
        with pytest.raises(LvmError) as raised:
            predictor.predict_sequence(some_contexts(2)[0])
        ends.append(str(raised.value))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(30)
    assert ends == ["this Predictor is closed; make a new one"]


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


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_a_closed_predictor_that_is_kept_holds_no_thread(small_artifacts: Get) -> None:
    before = len(os.listdir("/proc/self/task"))
    predictor = Predictor(small_artifacts("gru"), backend="onnx", threads=3)
    predictor.predict_sequence(some_contexts(2)[0])
    assert len(os.listdir("/proc/self/task")) > before
    predictor.close()
    deadline = time.monotonic() + 20
    while len(os.listdir("/proc/self/task")) > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(os.listdir("/proc/self/task")) <= before


def _refuse(*anything: Any, **more: Any) -> None:
    raise VerificationFailed("off")


def _refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module.Session, "_verify", _refuse)
    with pytest.raises(VerificationFailed):
        Predictor(path, backend="onnx")


def _refused_for_documents(path: Path, monkeypatch: pytest.MonkeyPatch) -> Predictor:
    monkeypatch.setattr(sequences_module, "require", _refuse)
    predictor = Predictor(path, backend="onnx")
    with pytest.warns(UserWarning, match="window by window"):
        predictor.predict_sequence(some_contexts(2).reshape(10, 16))
    return predictor


def _broken_for_documents(path: Path, monkeypatch: pytest.MonkeyPatch) -> Predictor:
    predictor = Predictor(path, backend="onnx")
    with monkeypatch.context() as patch:
        patch.setattr(OnnxBackend, "run", _refuse)
        with pytest.warns(UserWarning, match="window by window"):
            predictor._sequences._open()
    return predictor


def _tuned(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuning.tune(path, Request("onnx", device="cpu"))


def _unpickled(path: Path, monkeypatch: pytest.MonkeyPatch) -> Predictor:
    predictor = Predictor(path, backend="onnx")
    state = predictor.__getstate__() | {"model": "others"}
    with pytest.raises(ArtifactError, match="weights changed"):
        Predictor.__new__(Predictor).__setstate__(state)
    return predictor


def _for_bulk(path: Path, monkeypatch: pytest.MonkeyPatch) -> Predictor:
    return open_with_threads(path, Request("onnx"), threads=usable_cpus() + 1)


def _exported(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = Sample.of("random", load_model(Artifact.load(path)), some_contexts(3))
    verify_file(path / "onnx/fp32.onnx", [sample], format="onnx", precision="fp32", batch_sizes=(1, 2))


def _exported_for_documents(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = Artifact.load(path)
    source = Source(artifact, load_model(artifact))
    export_sequence(source, [Sample.of("random", source.model, some_contexts(3))])


SCENES = (
    *(_refused, _refused_for_documents, _broken_for_documents),
    *(_tuned, _unpickled, _for_bulk, _exported, _exported_for_documents),
)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__[1:])
def test_what_is_opened_and_not_kept_is_closed(
    scene: Callable[[Path, pytest.MonkeyPatch], Predictor | None],
    small_artifacts: Get,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    opened: set[int] = set()
    build, close = OnnxBackend.__init__, OnnxBackend.close

    def opening(self: OnnxBackend, *arguments: Any, **options: Any) -> None:
        build(self, *arguments, **options)
        opened.add(id(self))
        alive.append(self)  # so that no other one gets its id

    def closing(self: OnnxBackend) -> None:
        opened.discard(id(self))
        close(self)

    alive: list[OnnxBackend] = []
    monkeypatch.setattr(OnnxBackend, "__init__", opening)
    monkeypatch.setattr(OnnxBackend, "close", closing)
    kept = scene(Path(shutil.copytree(small_artifacts("gru"), tmp_path / "gru")), monkeypatch)
    assert alive
    assert len(opened) == (kept is not None)
    if kept is not None:
        kept.close()
    assert not opened


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


def test_a_request_does_not_end_with_its_thread_which_could_meet_the_end_of_the_interpreter(
    small_artifacts: Get,
) -> None:
    backend = OpenVinoBackend(small_artifacts("amn") / "onnx/fp32.onnx", threads=1)
    for _ in range(3):
        thread = threading.Thread(target=backend.run, args=(some_contexts(2),))
        thread.start()
        thread.join()
    assert len(backend._requests) == 1


@pytest.mark.parametrize("backend", ["torchscript", "eager"])
def test_an_answer_holds_no_tensor_whose_end_could_meet_that_of_the_interpreter(
    small_artifacts: Get, backend: str
) -> None:
    with Predictor(small_artifacts("amn"), backend=backend) as predictor:
        found = [predictor.predict(some_contexts(2)), predictor._open_session().run(some_contexts(2)),
                 *predictor._open_session().run_with_attention(some_contexts(2))]  # fmt: skip
    assert all(array.base is None for array in found)


@pytest.mark.parametrize("backend", ["onnx", "openvino", "eager"])
def test_the_interpreter_exits_with_calls_under_way(small_artifacts: Get, backend: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", AT_EXIT, str(small_artifacts("gru")), backend]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("backend", ["onnx", "openvino", "torchscript", "eager"])
def test_a_hundred_interpreters_exit_with_calls_under_way(small_artifacts: Get, backend: str) -> None:
    script = AT_EXIT.replace("(1024, 5, 16)", "(8, 5, 16)").replace("range(3)", "range(16)")  # short calls end at once
    command = [sys.executable, "-W", "ignore", "-c", script, str(small_artifacts("gru")), backend]
    for _ in range(100):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
