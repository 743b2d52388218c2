"""How forms are timed against each other, and which of them is the fastest."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lvm_runtime import ArtifactError, BackendUnavailable, LvmError, Predictor
from lvm_runtime.artifact.fingerprint import Fingerprint
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends.onnx import OnnxBackend
from lvm_runtime.request import Request
from lvm_runtime.selection import measurements, tuning
from lvm_runtime.selection.candidates import Candidate
from lvm_runtime.selection.measurements import Measurement
from lvm_runtime.selection.session import Session
from lvm_runtime.selection.timing import Timing
from lvm_runtime.selection.tuning import _BESIDE_FRAMEWORKS, _LIGHT, Rhythm, fastest, time_together, tune
from lvm_runtime.system.cpus import usable_cpus
from tests.artifacts import flip, some_contexts
from tests.lvm_runtime.selection.test_choice import fail_to_open

Get = Callable[[str], Path]

CONTEXTS = some_contexts(2)


def _measured(name: str, *seconds: float, problem: str | None = None) -> Measurement:
    return Measurement(name, "cpu", "fp32", "f", 0.0, seconds, problem)


CHOICES: dict[str, tuple[list[Measurement], int | None, str]] = {
    "one": ([_measured("a", 1, 2, 3)], None, "a"),
    "all weighed alike": ([_measured("a", 1, 4, 9), _measured("b", 3, 2, 3)], None, "b"),
    "single queries": ([_measured("a", 1, 4, 9), _measured("b", 3, 2, 3)], 1, "a"),
    "small batches": ([_measured("a", 1, 4, 1), _measured("b", 3, 2, 3)], 31, "b"),
    "small batches begin at 2": ([_measured("a", 1, 4, 1), _measured("b", 3, 2, 3)], 2, "b"),
    "large batches": ([_measured("a", 1, 4, 1), _measured("b", 3, 2, 3)], 32, "a"),
    "problems do not count": ([_measured("a", 9, 9, 9), _measured("b", problem="off")], None, "a"),
}


@pytest.mark.parametrize(("measured", "typical", "expected"), CHOICES.values(), ids=CHOICES.keys())
def test_the_fastest_for_the_batches_that_count(
    measured: list[Measurement], typical: int | None, expected: str
) -> None:
    assert fastest(measured, typical).backend == expected


def test_tuning_measures_everything_and_later_predictors_use_it(small_artifacts: Get) -> None:
    told: list[str] = []
    path = small_artifacts("lstm")  # the quickest one that torch.compile makes C++ of
    found, refused = tune(path, Request(max_drift=1e-3, device="cpu", precision="fp32"), report=told.append)
    assert {m.backend for m in found} == {"onnx", "openvino", "eager", "compiled"}
    assert [r.what.split()[0] for r in refused] == ["torchscript"]
    for m in found:
        assert m.problem is None
        assert len(m.seconds) == 3
        assert min(m.seconds) > 0
        assert m.drift < 1e-11
    assert any("timing" in line for line in told)
    with Predictor(path, device="cpu", precision="fp32") as predictor:
        why = {r.what: r.why for r in predictor.explain().refused}
    assert not any("not tried" in reason for reason in why.values())


class _Slept:
    """Takes 4 ms for the first 20 ms after a rest, and 1 ms from then on; or 2 ms always."""

    candidate = SimpleNamespace(light=False)

    def __init__(self, drowsy: bool) -> None:
        self.drowsy, self.woke, self.ended = drowsy, 0.0, 0.0

    def run(self, contexts: Any) -> None:
        now = time.perf_counter()
        if now - self.ended > 0.02:
            self.woke = now
        time.sleep(0.002 if not self.drowsy else 0.004 if now - self.woke < 0.02 else 0.001)
        self.ended = time.perf_counter()


def test_a_form_is_timed_awake() -> None:
    sessions: Any = [_Slept(drowsy=True), _Slept(drowsy=False)]
    drowsy, steady = time_together(sessions, np.empty(0, np.float32), 0.0)
    assert drowsy < steady


@pytest.mark.parametrize(("light", "rhythm"), [((True, True), _LIGHT), ((True, False), _BESIDE_FRAMEWORKS)], ids=str)
def test_forms_are_timed_in_turns_for_as_long_as_was_said(
    light: tuple[bool, bool], rhythm: Rhythm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that only this test moves; three forms of 10 s would be timed for 30 s, and two for 20 s."""
    now, runs = [100.0], []

    def run(number: int, contexts: Any) -> None:
        assert contexts is CONTEXTS
        runs.append(number)
        now[0] += 3.0

    def turns(sides: dict[str, Callable[[], object]], more: Callable[[dict[str, Timing]], bool], **how: Any) -> Any:
        assert runs == [0, 1]  # once before the clock starts
        assert how == {
            "rounds": 3,
            "seconds": rhythm.counted,
            "rest": rhythm.rest,
            "warm_up": rhythm.warm_up,
        }
        for side in sides.values():
            side()
        assert more({})
        now[0] = 125.9
        assert more({})
        now[0] = 126.0
        assert not more({})
        return {name: Timing(((float(i), 9.0, float(i)), (2.0,), (5.0 + i,))) for i, name in enumerate(sides)}

    sessions: Any = [
        SimpleNamespace(candidate=SimpleNamespace(light=is_light), run=partial(run, number))
        for number, is_light in enumerate(light)
    ]
    monkeypatch.setattr(tuning, "interleave", turns)
    monkeypatch.setattr(tuning, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    assert time_together(sessions, CONTEXTS, 10.0) == [2.0, 2.0]
    assert runs == [0, 1, 0, 1]


def test_each_form_is_loaded_timed_and_closed_and_what_it_cannot_do_is_kept(
    int8: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close_it, closed, timed, told = Session.close, [], [], []

    def together(sessions: list[Session], contexts: Any, seconds: float) -> list[float]:
        timed.append((len(sessions), contexts, seconds))
        return [float(len(contexts))]

    def close(session: Session) -> None:
        closed.append(session.candidate.file)
        close_it(session)

    fail_to_open(monkeypatch, BackendUnavailable("no room for int8"), "int8")
    monkeypatch.setattr(Session, "close", close)
    monkeypatch.setattr(tuning, "time_together", together)
    found, _ = tune(int8, Request("onnx", device="cpu", max_drift=1e-3, threads=3), report=told.append)
    forms = {m.file: m for m in found}
    good, bad = forms["onnx/fp32.onnx"], forms["onnx/int8.onnx"]
    assert (good.seconds, good.problem, bad.seconds, bad.problem) == ((1.0, 8.0, 128.0), None, (), "no room for int8")
    assert 0 < good.drift < 1e-11
    assert closed == ["onnx/fp32.onnx"]
    artifact = Artifact.load(int8)
    probes = artifact.read_fingerprint().contexts
    for (count, contexts, seconds), batch in zip(timed, (1, 8, 128), strict=True):
        assert (count, seconds) == (1, tuning.THOROUGH)
        np.testing.assert_array_equal(contexts, np.resize(probes, (batch, *probes.shape[1:])))
        assert contexts.flags.c_contiguous
    forms_told = [f"loading onnx {p} on cpu (onnx/{p}.onnx)" for p in ("fp32", "int8")]
    assert told == [*forms_told, *(f"timing 1 form at batch {batch}" for batch in (1, 8, 128))]
    assert {m.identity: m for m in measurements.load(artifact, 3)} == {m.identity: m for m in found}


def test_a_form_that_was_opened_is_closed_where_a_later_one_is_damaged(
    int8: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_first(candidate: Candidate, fingerprint: Fingerprint, request: Request) -> Session:
        flip(int8 / "onnx/int8.onnx", 0.5)
        opened.append(open_it(candidate, fingerprint, request))
        return opened[-1]

    opened: list[Session] = []
    open_it = Session.open
    monkeypatch.setattr(Session, "open", open_first)
    with pytest.raises(ArtifactError, match=r"onnx/int8\.onnx: SHA-256"):
        tune(int8, Request("onnx", device="cpu", max_drift=1e-3))
    assert [session.candidate.file for session in opened] == ["onnx/fp32.onnx"]
    with pytest.raises(LvmError, match="closed"):
        opened[0].run(CONTEXTS)


def test_where_nothing_can_be_kept_it_is_said(int8: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements, "save", lambda *_: None)
    told: list[str] = []
    found, _ = tune(int8, Request("onnx", device="cpu"), report=told.append)
    assert [m.file for m in found] == ["onnx/fp32.onnx"]
    assert told[-1] == (
        "the cache folder cannot be written: the result serves this process only; set LVM_CACHE to another"
    )


def test_where_no_form_opens_nothing_is_timed(int8: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_to_open(monkeypatch, BackendUnavailable("no room"), "fp32", "int8")
    told: list[str] = []
    found, _ = tune(int8, Request("onnx", device="cpu", max_drift=1e-3), report=told.append)
    assert {m.problem for m in found} == {"no room"}
    assert not any("timing" in line for line in told)


def test_what_only_this_process_cannot_do_is_not_kept(int8: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that exits while a thread measures, or was forked during an import, would rule the form out for all."""
    fail_to_open(monkeypatch, LvmError("the interpreter is about to exit"), "fp32", "int8")
    found, _ = tune(int8, Request("onnx", device="cpu", max_drift=1e-3))
    assert {m.problem for m in found} == {"the interpreter is about to exit"}
    assert measurements.load(Artifact.load(int8), usable_cpus()) == []


def test_a_form_that_fails_at_a_large_batch_gives_way_to_the_others(
    int8: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = OnnxBackend.run

    def no_room(backend: OnnxBackend, contexts: Any) -> Any:
        if len(contexts) > 64 and backend.precision == "int8":
            raise RuntimeError("no room for a batch")
        return run(backend, contexts)

    monkeypatch.setattr(OnnxBackend, "run", no_room)
    found, _ = tune(int8, Request(backend="onnx", device="cpu", max_drift=1e-3))
    assert {m.precision: m.problem for m in found} == {
        "fp32": None,
        "int8": "backend onnx failed on cpu: no room for a batch",
    }
    assert {m.precision for m in measurements.load(Artifact.load(int8), usable_cpus())} == {"fp32"}
