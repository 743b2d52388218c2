"""Choosing among forms: by measurement, within the request, and never a mixture that disagrees."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lvm_runtime import ArtifactError, BackendUnavailable, Predictor
from lvm_runtime.artifact.fingerprint import Fingerprint
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends.onnx import OnnxBackend
from lvm_runtime.models import load_model
from lvm_runtime.request import Request
from lvm_runtime.selection import measurements, tuning
from lvm_runtime.selection.candidates import Candidate, list_candidates
from lvm_runtime.selection.measurements import Measurement
from lvm_runtime.selection.session import Session
from lvm_runtime.selection.timing import Timing
from lvm_runtime.selection.tuning import _BESIDE_FRAMEWORKS, _LIGHT, Rhythm, fastest, time_together, tune
from lvm_runtime.system.cpus import usable_cpus
from tests.artifacts import add_onnx, edit_manifest, some_contexts

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


def test_a_device_that_no_form_has_is_an_error_with_the_reasons(int8: Path) -> None:
    with pytest.raises(BackendUnavailable, match=r"no form of it can serve .*onnx fp32.*'tpu'.*onnx int8"):
        Predictor(int8, device="tpu", max_drift=1e-3)


NOTHING: dict[str, tuple[Request, bool, str]] = {
    "precision": (
        Request(precision="int8"),
        True,
        "has no int8 form (it has onnx fp32, torchscript fp32); "
        "make one with: lvm-runtime export onnx --model {path} --precision int8",
    ),
    "both": (
        Request("onnx", precision="int8"),
        True,
        "has no onnx int8 form (it has onnx fp32, torchscript fp32); "
        "make one with: lvm-runtime export onnx --model {path} --precision int8",
    ),
    "backend": (
        Request("onnx"),
        False,
        "has no onnx form (it has no compiled form); make one with: lvm-runtime export onnx --model {path}",
    ),
    "full precision": (
        Request("torchscript", precision="fp32"),
        False,
        "has no torchscript fp32 form (it has no compiled form); "
        "make one with: lvm-runtime export torchscript --model {path}",
    ),
    "arithmetic of a file in full precision": (
        Request("openvino", precision="bf16"),
        False,
        "has no openvino bf16 form (it has no compiled form); make one with: lvm-runtime export onnx --model {path}",
    ),
}


@pytest.mark.parametrize(("request_", "compiled", "says"), NOTHING.values(), ids=NOTHING.keys())
def test_an_artifact_without_such_a_form_says_how_to_make_it(
    small_artifacts: Get, request_: Request, compiled: bool, says: str
) -> None:
    artifact = Artifact.load(small_artifacts("amn"))
    if not compiled:
        artifact = replace(artifact, manifest=replace(artifact.manifest, compiled=()))
    with pytest.raises(ArtifactError) as refused:
        list_candidates(artifact, request_)
    assert str(refused.value) == f"{artifact.path} " + says.format(path=artifact.path)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (Request(), ["onnx fp32 on cpu", "onnx fp32 on cuda", "eager fp32"]),
        (Request(device="cpu"), ["onnx fp32 on cpu", "eager fp32 on cpu"]),
        (Request("onnx"), ["onnx fp32"]),
        (Request("onnx", device="cuda"), ["onnx fp32 on cuda"]),
    ],
)
def test_every_device_of_a_light_backend_is_tried_where_nothing_was_named(
    small_artifacts: Get, monkeypatch: pytest.MonkeyPatch, request_: Request, expected: list[str]
) -> None:
    monkeypatch.setattr(OnnxBackend, "devices", lambda: ["cpu", "cuda"])
    candidates, _ = list_candidates(Artifact.load(small_artifacts("amn")), request_)
    assert [str(c).split(" (")[0] for c in candidates if c.backend in ("onnx", "eager")] == expected


def _light(path: Path) -> list[Measurement]:
    return measurements.load(Artifact.load(path), usable_cpus())


def test_a_single_light_form_is_not_timed(int8: Path) -> None:
    with Predictor(int8) as predictor:
        assert predictor.explain().running.precision == "fp32"
    assert _light(int8) == []


def test_several_light_forms_are_timed_once(int8: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Predictor(int8, max_drift=1e-3) as predictor:
        first = predictor.explain()
    assert {m.file for m in _light(int8)} == {"onnx/fp32.onnx", "onnx/int8.onnx"}
    monkeypatch.setattr("lvm_runtime.selection.choice.measure", None)  # a second measurement would fail
    with Predictor(int8, max_drift=1e-3) as predictor:
        assert predictor.explain() == first


def test_a_form_that_does_not_open_gives_way_to_the_next_and_is_named(
    int8: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_or_fail(candidate: Candidate, fingerprint: Fingerprint, request: Request) -> Session:
        if candidate.precision == "int8":
            raise BackendUnavailable("no room for int8")
        return open_it(candidate, fingerprint, request)

    open_it = Session.open
    monkeypatch.setattr(Session, "open", open_or_fail)
    forged = [
        Measurement("onnx", "cpu", precision, f"onnx/{precision}.onnx", 0.0, (seconds,) * 3, None)
        for precision, seconds in (("int8", 1.0), ("fp32", 2.0))
    ]
    measurements.save(Artifact.load(int8), usable_cpus(), forged)
    with Predictor(int8, max_drift=1e-3) as predictor:
        explanation = predictor.explain()
    assert explanation.running.file == "onnx/fp32.onnx"
    why = {refusal.what: refusal.why for refusal in explanation.refused}
    assert why["onnx int8 on cpu (onnx/int8.onnx)"] == "no room for int8"
    assert why["eager fp32 (model.safetensors)"].startswith("not tried, because it loads a heavy framework")


@pytest.mark.parametrize(("fast", "slow"), [("onnx/int8.onnx", "onnx/fp32.onnx"), ("onnx/fp32.onnx", "onnx/int8.onnx")])
def test_the_measurement_decides(int8: Path, fast: str, slow: str) -> None:
    artifact = Artifact.load(int8)
    found, _ = tune(int8, Request("onnx", device="cpu", max_drift=1e-3))
    forged = [
        replace(m, seconds=(1.0, 1.0, 1.0) if m.file == fast and m.backend == "onnx" else (2.0, 2.0, 2.0))
        for m in found
    ]
    measurements.save(artifact, usable_cpus(), forged)
    with Predictor(int8, device="cpu", max_drift=1e-3) as predictor:
        explanation = predictor.explain()
    assert explanation.running.file == fast
    slower = {refusal.what: refusal.why for refusal in explanation.refused}
    assert any(slow in what and "slower here: 0 / 4 / 64 predictions/s" in why for what, why in slower.items())


def test_the_typical_batch_decides_where_no_form_is_always_the_fastest(int8: Path) -> None:
    found = [m for name in ("onnx", "eager", "openvino") for m in tune(int8, Request(name, device="cpu"))[0]]
    times = {"onnx": (1.0, 9.0, 9.0), "eager": (5.0, 1.0, 6.0), "openvino": (5.0, 5.0, 1.0)}
    measurements.save(Artifact.load(int8), usable_cpus(), [replace(m, seconds=times[m.backend]) for m in found])
    for batch, backend in ((1, "onnx"), (None, "openvino"), (31, "eager"), (32, "openvino")):
        with Predictor(int8, device="cpu", typical_batch=batch) as predictor:
            assert predictor.explain().running.backend == backend


def test_a_form_for_batch_1_only_serves_every_batch(
    small_artifacts: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: set[int] = set()
    run = OnnxBackend.run
    monkeypatch.setattr(OnnxBackend, "run", lambda self, contexts: (sizes.add(len(contexts)), run(self, contexts))[1])
    path = Path(shutil.copytree(small_artifacts("lstm"), tmp_path / "lstm"))
    artifact = Artifact.load(path)
    add_onnx(artifact, load_model(artifact), "onnx/int8-b1.onnx", precision="int8", drift=5e-4, batch_sizes=(1,))
    with Predictor(path, precision="int8") as predictor:
        contexts = some_contexts(7)
        together = predictor.predict(contexts)
        alone = np.stack([predictor.predict(context) for context in contexts])
        np.testing.assert_array_equal(together, alone)
    assert sizes == {1}


def test_tuning_measures_everything_and_later_predictors_use_it(small_artifacts: Get) -> None:
    told: list[str] = []
    path = small_artifacts("amn")
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
    open_it, close_it, closed, timed, told = Session.open, Session.close, [], [], []

    def open_or_fail(candidate: Candidate, fingerprint: Fingerprint, request: Request) -> Session:
        if candidate.precision == "int8":
            raise BackendUnavailable("no room for int8")
        return open_it(candidate, fingerprint, request)

    def together(sessions: list[Session], contexts: Any, seconds: float) -> list[float]:
        timed.append((len(sessions), contexts, seconds))
        return [float(len(contexts))]

    def close(session: Session) -> None:
        closed.append(session.candidate.file)
        close_it(session)

    monkeypatch.setattr(Session, "open", open_or_fail)
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
    assert told == [*forms_told, *(f"timing 1 forms at batch {batch}" for batch in (1, 8, 128))]
    assert {m.identity: m for m in measurements.load(artifact, 3)} == {m.identity: m for m in found}


def test_where_no_form_opens_nothing_is_timed(int8: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Session:
        raise BackendUnavailable("no room")

    monkeypatch.setattr(Session, "open", fail)
    told: list[str] = []
    found, _ = tune(int8, Request("onnx", device="cpu", max_drift=1e-3), report=told.append)
    assert {m.problem for m in found} == {"no room"}
    assert not any("timing" in line for line in told)


def test_a_damaged_cache_is_measured_again(small_artifacts: Get) -> None:
    artifact = Artifact.load(small_artifacts("amn"))
    file = measurements.save(artifact, 2, [_measured("a", 1, 1, 1)])
    assert file is not None
    file.write_bytes(b"{")
    assert measurements.load(artifact, 2) == []


def test_auto_never_runs_a_file_that_holds_code(int8: Path) -> None:
    edit_manifest(int8, lambda m: m.update(compiled=[c for c in m["compiled"] if c["format"] == "torchscript"]))
    shutil.rmtree(int8 / "onnx")
    with Predictor(int8, device="cpu") as predictor:  # nothing light is left, and heavy forms are tried
        explanation = predictor.explain()
    assert explanation.running.backend == "eager"
    (refusal,) = [r for r in explanation.refused if r.what.startswith("torchscript")]
    assert "its file can hold code" in refusal.why
    with Predictor(int8, device="cpu", backend="torchscript") as predictor:
        assert predictor.explain().running.backend == "torchscript"


REQUESTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "default": ({}, {"onnx fp32", "openvino fp32", "eager fp32", "compiled fp32"}),
    "any drift": (
        {"max_drift": 1e-3},
        {"onnx fp32", "onnx int8", "openvino fp32", "openvino bf16", "eager fp32", "compiled fp32"},
    ),
    "little drift": (
        {"max_drift": 1e-4},
        {"onnx fp32", "openvino fp32", "openvino bf16", "eager fp32", "compiled fp32"},
    ),
    "a backend": ({"backend": "onnx"}, {"onnx fp32"}),
    "a backend and drift": ({"backend": "onnx", "max_drift": 1e-3}, {"onnx fp32", "onnx int8"}),
    "a precision": ({"precision": "int8"}, {"onnx int8"}),
}


@pytest.mark.parametrize(("arguments", "expected"), REQUESTS.values(), ids=REQUESTS.keys())
def test_what_fits_a_request(int8: Path, arguments: dict[str, Any], expected: set[str]) -> None:
    candidates, _ = list_candidates(Artifact.load(int8), Request(**arguments))
    assert {f"{c.backend} {c.precision}" for c in candidates} == expected
