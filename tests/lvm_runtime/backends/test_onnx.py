"""The onnxruntime backend among other users of onnxruntime in the same process."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import lvm_runtime.backends.onnx as onnx_backend
from export.forms import build_form
from export.onnx.export import write_graph
from lvm_runtime.artifact.config import ARCHITECTURES
from lvm_runtime.backends.base import Array
from lvm_runtime.backends.onnx import OnnxBackend
from lvm_runtime.backends.openvino import OpenVinoBackend
from lvm_runtime.errors import ArtifactError, BackendUnavailable
from tests.artifacts import add_onnx, make_artifact, randomised, some_contexts


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


@pytest.fixture
def small_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let 6 rows per thread be many, and a slice be 4."""
    monkeypatch.setattr(onnx_backend, "_LEAST_SHARES", {"fp32": (6, 0), "int8": (6, 0)})
    monkeypatch.setattr(onnx_backend, "SLICE", 4)


def _spy(backend: OnnxBackend, monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, int]]]:
    """Return a list that gets the slices of every batch that is cut."""
    cuts: list[list[tuple[int, int]]] = []
    run = backend._helpers.run

    def spied(work: Any, slices: Any) -> None:
        cuts.append(list(slices))
        run(work, cuts[-1])

    monkeypatch.setattr(backend._helpers, "run", spied)
    return cuts


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_batch_in_slices_is_the_batch(
    architecture: str, precision: str, threads: int, small_shares: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    artifact = make_artifact(tmp_path / "model", architecture)
    if precision != "fp32":
        add_onnx(artifact, randomised(architecture), "onnx/int8.onnx", precision=precision)
    file = artifact.path / f"onnx/{precision}.onnx"
    backend = OnnxBackend(file, threads=threads, precision=precision)
    cuts = _spy(backend, monkeypatch)
    whole = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    contexts = some_contexts(45)
    outputs = ["prediction", "attention"] if architecture == "amn" else ["prediction"]
    for batch in range(1, 46):
        expected = whole.run(outputs, {"context": contexts[:batch]})
        found = backend.run_with_attention(contexts[:batch]) if len(outputs) > 1 else (backend.run(contexts[:batch]),)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.dtype == np.float32
            np.testing.assert_allclose(ours, theirs, atol=1e-6, rtol=0)
    assert len(cuts) == 45 - max(6 * threads, 6) + 1
    for slices in cuts:
        assert len(slices) % threads == 0
        assert [start for start, _ in slices[1:]] == [stop for _, stop in slices[:-1]]
        assert all(2 <= stop - start <= 6 for start, stop in slices)
    backend.close()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_document_in_slices_is_the_document(
    architecture: str, small_shares: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    artifact = add_onnx(
        make_artifact(tmp_path / "model", architecture),
        randomised(architecture),
        "onnx/sequence-fp32.onnx",
        kind="sequence",
    )
    file = artifact.path / "onnx/sequence-fp32.onnx"
    backend = OnnxBackend(file, threads=2)
    cuts = _spy(backend, monkeypatch)
    whole = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    vectors = some_contexts(1, length=60)[0]
    for count in range(5, 61):
        expected = whole.run(["prediction"], {"vectors": vectors[:count]})[0]
        np.testing.assert_allclose(backend.run(vectors[:count]), expected, atol=1e-6, rtol=0)
    assert len(cuts) == 60 - 16 + 1  # 12 windows and more, from 16 vectors on
    backend.close()


def test_a_share_is_worth_its_rows_and_its_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "amn")
    add_onnx(artifact, randomised("amn"), "onnx/int8.onnx", precision="int8")
    weights = {precision: (artifact.path / f"onnx/{precision}.onnx").stat().st_size for precision in ("fp32", "int8")}
    shares = {"fp32": (3, 9 * weights["fp32"]), "int8": (5, weights["int8"])}
    monkeypatch.setattr(onnx_backend, "_LEAST_SHARES", shares)
    for precision, threads, fewest in [("fp32", 2, 18), ("fp32", 3, 27), ("int8", 2, 10)]:
        backend = OnnxBackend(artifact.path / f"onnx/{precision}.onnx", threads=threads)
        assert backend.precision == precision
        cuts = _spy(backend, monkeypatch)
        backend.run(some_contexts(fewest - 1))
        assert not cuts
        backend.run(some_contexts(fewest))
        assert len(cuts) == 1
        backend.close()


def test_a_file_says_its_precision_and_an_old_one_is_what_it_is_listed_as(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "amn")
    file = artifact.path / "onnx/fp32.onnx"
    with pytest.raises(ArtifactError, match=r"fp32\.onnx: it says that it is fp32, and it is listed .* as int8"):
        OnnxBackend(file, precision="int8")
    model = onnx.load(file)
    del model.metadata_props[[prop.key for prop in model.metadata_props].index("precision")]
    onnx.save(model, file)
    assert OnnxBackend(file).precision == "fp32"
    assert OnnxBackend(file, precision="int8").precision == "int8"
    add_onnx(artifact, randomised("amn"), "onnx/int8.onnx", precision="int8")
    with pytest.raises(ArtifactError, match="says that it is int8, and it is listed or was asked for as fp32"):
        OpenVinoBackend(artifact.path / "onnx/int8.onnx")


def test_many_callers_share_the_helpers(small_shares: None, tmp_path: Path) -> None:
    backend = OnnxBackend(make_artifact(tmp_path / "amn").path / "onnx/fp32.onnx", threads=2)
    contexts = some_contexts(80)
    expected = backend.run(contexts)

    def ask(i: int) -> bool:
        return all(
            np.abs(backend.run(contexts[i:stop]) - expected[i:stop]).max() <= 1e-6 for stop in range(i + 12, 80, 7)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(40)))
    backend.close()


def test_a_slice_that_fails_is_an_error(small_shares: None, tmp_path: Path) -> None:
    backend = OnnxBackend(make_artifact(tmp_path / "amn").path / "onnx/fp32.onnx", threads=2)
    with pytest.raises(Exception, match="context"):
        backend.run(np.zeros((40, 5, 17), np.float32))
    np.testing.assert_array_equal(backend.run(some_contexts(40))[:3], backend.run(some_contexts(40))[:3])
    backend.close()


@pytest.mark.parametrize(("system", "threads", "sessions"), [("linux", 1, 1), ("linux", 2, 2), ("darwin", 2, 1)])
def test_weights_are_in_memory_twice_only_where_threads_share(
    system: str, threads: int, sessions: int, monkeypatch: pytest.MonkeyPatch, small_shares: None, tmp_path: Path
) -> None:
    file = make_artifact(tmp_path / "amn").path / "onnx/fp32.onnx"
    opened: list[Any] = []
    open_session = onnx_backend._open_session
    monkeypatch.setattr(onnx_backend, "_open_session", lambda *a: opened.append(a) or open_session(*a))
    monkeypatch.setattr(onnx_backend.sys, "platform", system)
    backend = OnnxBackend(file, threads=threads)
    assert len(opened) == sessions
    cuts = _spy(backend, monkeypatch)
    backend.run(some_contexts(40))
    assert bool(cuts) == (system == "linux")
    backend.close()


class WrongOfMany:
    """A session that computes 32 rows or more otherwise than fewer, as onnxruntime 1.24 does with AMX."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, names: list[str], inputs: dict[str, Array]) -> list[Array]:
        found: list[Array] = self._session.run(names, inputs)
        if len(found[0]) >= 32:
            found[0][:32, -1] += 0.01
        return found


def test_versions_that_multiply_many_rows_wrongly_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_graph(build_form(randomised("amn", dim=32)), tmp_path / "int8.onnx", "int8")
    monkeypatch.setattr(onnxruntime, "__version__", "1.24.4")
    OnnxBackend(tmp_path / "int8.onnx", threads=1).close()
    usual = onnx_backend._open_session
    monkeypatch.setattr(onnx_backend, "_open_session", lambda *given: WrongOfMany(usual(*given)))
    with pytest.raises(BackendUnavailable, match=r"onnxruntime 1\.24\.4 multiplies integers wrongly on this CPU"):
        OnnxBackend(tmp_path / "int8.onnx", threads=1)
