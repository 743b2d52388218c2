"""Sessions: padding to fixed batch sizes, and the checks that a backend has to pass."""

from __future__ import annotations

import shutil
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lvm_runtime import ArtifactError, LvmError, Predictor
from lvm_runtime.artifact.fingerprint import Fingerprint, probe_contexts
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends.base import REDUCED_LARGEST_NORM, Array, Backend
from lvm_runtime.backends.eager import EagerBackend
from lvm_runtime.errors import VerificationFailed
from lvm_runtime.selection.candidates import Candidate
from lvm_runtime.selection.session import Session
from tests.artifacts import add_onnx, randomised

Fault = Callable[[Array], Any]
"""From contexts `[b, T, D]` to what is added to the first component of each answer."""


def nothing(contexts: Array) -> float:
    return 0.0


def by(offset: float) -> Fault:
    return lambda contexts: offset


def by_size(each: float) -> Fault:
    return lambda contexts: each * len(contexts)


def by_mates(each: float) -> Fault:
    return lambda contexts: each * np.ptp(contexts)


def at_place(place: int) -> Fault:
    """A little, in one row of a batch of several."""
    return lambda contexts: 5e-6 * (len(contexts) > 1) * np.eye(len(contexts))[place]


def for_one_probe(contexts: Array) -> Any:
    """Too much for int8, and a sixteenth of that on average."""
    return 0.08 * (contexts == probe_contexts(8, 5)[3]).all(axis=(1, 2))


class MeanBackend(Backend):
    """The linear average, with what a test wants to be wrong with it."""

    name = "mean"

    def __init__(
        self,
        source: Path = Path(),
        *,
        precision: str,
        batch_sizes: tuple[int, ...] | None = None,
        fault: Fault = nothing,
        attention_fault: Fault = nothing,
        asked: float = 0.0,
        length: float = 1.0,
    ) -> None:
        self.device, self.precision, self.batch_sizes = "cpu", precision, batch_sizes
        self.sizes_seen: list[int] = []
        self.fault, self.attention_fault, self.asked, self.length = fault, attention_fault, asked, length

    def run(self, contexts: Array) -> Array:
        self.sizes_seen.append(len(contexts))
        mean = contexts.mean(axis=1)
        mean[:, 0] += self.fault(contexts)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True) * np.float32(self.length)

    def run_with_attention(self, contexts: Array) -> tuple[Array, Array]:
        attention = np.full(contexts.shape[:2], 0.2, np.float32)
        attention[:, 0] += self.attention_fault(contexts)
        return self.run(contexts) + np.float32(self.asked), attention


def _fingerprint() -> Fingerprint:
    contexts = probe_contexts(8, 5)
    mean = contexts.astype(np.float64).mean(axis=1)
    return Fingerprint(contexts, mean / np.linalg.norm(mean, axis=1, keepdims=True), np.full((16, 5), 0.2))


def _session(precision: str = "fp32", limit: float = 1e-6, **options: Any) -> Session:
    candidate = Candidate("mean", "cpu", precision, Path(), "mean.bin", 0.0)
    return Session(candidate, MeanBackend(precision=precision, **options), _fingerprint(), limit)


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 11])
def test_padding_does_not_show(rows: int) -> None:
    fixed, free = _session(batch_sizes=(1, 4)), _session()
    contexts = np.random.default_rng(0).standard_normal((rows, 5, 8)).astype(np.float32)
    np.testing.assert_array_equal(fixed.run(contexts), free.run(contexts))
    assert set(fixed.backend.sizes_seen) <= {1, 4}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("precision", "limit", "options", "message"),
    [
        ("fp32", 1e-6, {"fault": by(0.05)}, "drift from the known answers .* is"),
        ("fp32", 1e-6, {"fault": by(np.nan)}, "drift from the known answers .* is inf"),
        ("fp32", 1e-6, {"fault": by(1e-4)}, "largest difference to the known answers is .*expected ≤ 2.0e-05"),
        ("int8", 1e-6, {"fault": by(1e-2)}, "drift from the known answers .* is"),
        ("int8", 1e-3, {"fault": for_one_probe}, r"drift from the known answers \(mean [12]\..*e-04 of 16 probes\) is"),
        (
            "int8",
            1e-3,
            {"length": 2.0},
            "largest difference in length .* is 1.00e.*expected ≤ 1.0e-02",
        ),
        ("int8", 1e-3, {"fault": by_size(1e-4)}, "change of probe 0 without its batch-mates is .*expected ≤ 1.0e-06"),
        ("fp16", 1e-4, {"fault": by_mates(1e-3), "batch_sizes": (1, 16)}, "change of probe 0 without its batch-mates"),
        ("fp32", 1e-6, {"fault": at_place(0)}, "change of probe 0 without its batch-mates"),
        ("fp32", 1e-6, {"fault": at_place(-1)}, "change of probe 15 without its batch-mates"),
        ("fp32", 1e-6, {"attention_fault": by(1e-4)}, "largest attention difference is .*expected ≤ 2.0e-05"),
        ("int8", 1e-3, {"attention_fault": by(np.nan)}, "largest attention difference is inf"),
        ("fp32", 1e-6, {"asked": 5e-6}, "change when attention is asked for is .*expected ≤ 1.0e-06"),
    ],
    ids=[
        "wrong",
        "nan",
        "TF32-like",
        "over the limit",
        "one probe over the limit",
        "twice as long",
        "changes with the batch",
        "changes with its mates, fixed size",
        "first place",
        "last place",
        "attention",
        "nan attention",
        "attention asked for",
    ],
)
def test_a_backend_that_is_off_is_refused(precision: str, limit: float, options: dict[str, Any], message: str) -> None:
    with pytest.raises(VerificationFailed, match=f"{message}.*; this is not the same model here: export it again"):
        _session(precision, limit, **options)


def test_a_backend_within_its_precision_passes_with_its_drift() -> None:
    session = _session("int8", 1e-3, fault=by(1e-3))
    assert 1e-9 < session.drift < 1e-3
    assert session.answers.shape == (16, 8)


def test_programs_for_different_batch_sizes_may_round_differently() -> None:
    session = _session("fp16", 1e-4, fault=by_size(1e-5), batch_sizes=(1, 16))
    one, sixteen = session.run(_fingerprint().contexts[:1])[0], session.answers[0]
    assert not np.array_equal(one, sixteen)
    np.testing.assert_allclose(one, sixteen, rtol=0, atol=1e-3)


@pytest.mark.parametrize("wrong", [1, 4, 64], ids=str)
def test_a_fixed_batch_size_gives_the_known_answers_before_it_is_used(wrong: int) -> None:
    """Of 1, 4, 16 and 64 the probes run as one batch of 16."""

    def fault(contexts: Array) -> float:
        return 0.05 * (len(contexts) == wrong)

    session, contexts = _session(batch_sizes=(1, 4, 16, 64), fault=fault), probe_contexts(8, 5)
    for size in (1, 4, 16, 64, wrong):
        asked = np.resize(contexts, (size, 5, 8))
        if size == wrong:
            with pytest.raises(VerificationFailed, match=f"mean .* on cpu at batch size {size}: drift from the known"):
                session.run_usable(asked)
        else:
            np.testing.assert_allclose(session.run(asked)[0], _fingerprint().predictions[0], rtol=0, atol=1e-6)


def test_a_fixed_batch_size_is_proved_once() -> None:
    session, seen = _session(batch_sizes=(1, 16)), []
    session.backend.sizes_seen = seen  # type: ignore[attr-defined]
    for _ in range(2):
        session.run(probe_contexts(8, 5)[:1])
    assert seen == [1] * len(seen)
    before = len(seen)
    assert before > 16, "each probe, and two calls"
    session.run(probe_contexts(8, 5)[:1])
    assert len(seen) == before + 1


def test_a_close_releases_the_backend_when_the_last_call_has_ended() -> None:
    session, entered, let_go, events = _session(), threading.Event(), threading.Event(), []

    def slow(contexts: Array) -> Array:
        entered.set()
        assert let_go.wait(20)
        events.append("answered")
        return contexts

    session.backend.close = lambda: events.append("released")  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as pool:
        call = pool.submit(session._guard.guarded, slow, probe_contexts(8, 5))
        assert entered.wait(20)
        close = pool.submit(session.close)
        assert not wait([close], timeout=0.05).done
        let_go.set()
        call.result(20)
        close.result(20)
    assert events == ["answered", "released"]
    with pytest.raises(LvmError, match="this Predictor is closed"):
        session.run(probe_contexts(8, 5))


def test_a_close_waits_for_a_call_of_a_fork_that_another_call_reached_with_it() -> None:
    session, inside, late, let_go = _session(), threading.Event(), threading.Event(), threading.Event()
    first = iter([True])

    def after_fork() -> None:
        if next(first, False):  # both have found that the process is a fork
            late.set()
            assert inside.wait(20)

    def slow(contexts: Array) -> Array:
        inside.set()
        assert let_go.wait(20)
        return contexts

    session.backend.after_fork = after_fork  # type: ignore[method-assign]
    session._guard.fork_away()
    with ThreadPoolExecutor(3) as pool:
        other = pool.submit(session._guard.guarded, lambda contexts: contexts, probe_contexts(8, 5))
        assert late.wait(20)
        call = pool.submit(session._guard.guarded, slow, probe_contexts(8, 5))
        other.result(20)
        close = pool.submit(session.close)
        assert not wait([close], timeout=0.05).done
        let_go.set()
        call.result(20)
        close.result(20)


def _of_another_size(path: Path, backend: str) -> None:
    """Replace the form that `backend` runs by that of a model with D = 24."""
    other, artifact = randomised("gru", dim=24), Artifact.load(path)
    if backend != "torchscript":
        add_onnx(artifact, other)
        return
    with artifact.adding("torchscript/fp32.pt") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(other, torch.ones(2, 5, 24)), str(file))
        artifact.commit(file, "torchscript/fp32.pt", format="torchscript", precision="fp32", drift=0.0)


@pytest.mark.parametrize("backend", ["onnx", "openvino", "torchscript"])
def test_a_form_that_cannot_take_the_probes_is_an_artifact_error(
    small_artifacts: Callable[[str], Path], tmp_path: Path, backend: str
) -> None:
    path = Path(shutil.copytree(small_artifacts("gru"), tmp_path / "gru"))
    _of_another_size(path, backend)
    with pytest.raises(ArtifactError, match=r"fp32\.(onnx|pt): it cannot be run \(.*\); export it again"):
        Predictor(path, backend=backend)


def test_attention_does_not_narrow_the_norms_of_full_precision(
    small_artifacts: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Core ML and static forms of Core AI take no norm over 200 in fp32 either, for other reasons."""
    monkeypatch.setattr(EagerBackend, "largest_norm", REDUCED_LARGEST_NORM)
    with Predictor(small_artifacts("amn"), backend="eager") as predictor:
        assert predictor.largest_norm == REDUCED_LARGEST_NORM


def test_nobody_is_told_to_export_again_what_is_not_exported(
    small_artifacts: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: EagerBackend, contexts: Array) -> Array:
        raise RuntimeError("file too short")

    monkeypatch.setattr(EagerBackend, "run", fail)
    with pytest.raises(ArtifactError, match=r"it cannot be run \(file too short\)$"):
        Predictor(small_artifacts("gru"), backend="eager")


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (RuntimeError("no\n memory"), "backend mean failed on cpu: no memory"),
        (KeyError(), "KeyError"),
        (MemoryError("all"), "all"),
    ],
    ids=["runtime", "silent", "memory"],
)
def test_what_a_framework_raises_in_a_run_is_one_kind_of_error(raised: Exception, expected: str) -> None:
    session = _session()

    def fail(contexts: Array) -> Array:
        raise raised

    session.backend.run = fail  # type: ignore[method-assign]
    for run in (session.run, session.run_usable):
        with pytest.raises(MemoryError if isinstance(raised, MemoryError) else LvmError, match=expected):
            run(probe_contexts(8, 5))
