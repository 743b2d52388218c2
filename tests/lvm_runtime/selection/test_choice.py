"""Choosing among forms: by measurement, within the request, and never a mixture that disagrees."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lvm_runtime import ArtifactError, BackendUnavailable, LvmError, Predictor, VerificationFailed
from lvm_runtime.artifact.fingerprint import Fingerprint
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends.onnx import OnnxBackend
from lvm_runtime.errors import ITEM
from lvm_runtime.models import load_model
from lvm_runtime.request import Request
from lvm_runtime.selection import measurements
from lvm_runtime.selection.candidates import Candidate, list_candidates
from lvm_runtime.selection.measurements import Measurement
from lvm_runtime.selection.session import Session
from lvm_runtime.selection.tuning import tune
from lvm_runtime.system.cpus import usable_cpus
from tests.artifacts import add_onnx, edit_manifest, some_contexts

Get = Callable[[str], Path]


def test_a_device_that_no_form_has_is_an_error_with_the_reasons(int8: Path) -> None:
    with pytest.raises(BackendUnavailable, match=r"(?s)no form of it can serve .*onnx fp32.*'gpu'.*onnx int8"):
        Predictor(int8, device="gpu", max_drift=1e-3)


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
    "a precision that no export of the backend writes": (
        Request("onnx", precision="fp16"),
        True,
        "has no onnx fp16 form (it has onnx fp32, torchscript fp32), and no export makes one; "
        "lvm-runtime export onnx makes fp32 or int8",
    ),
    "a precision that another option makes": (
        Request("coreai", precision="int8"),
        True,
        "has no coreai int8 form (it has onnx fp32, torchscript fp32); "
        "make one with: lvm-runtime export coreai --model {path} --compress int8",
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


def fail_to_open(monkeypatch: pytest.MonkeyPatch, error: LvmError, *precisions: str) -> None:
    """Let no form of these precisions open."""

    def open_or_fail(candidate: Candidate, fingerprint: Fingerprint, request: Request) -> Session:
        if candidate.precision in precisions:
            raise error
        return open_it(candidate, fingerprint, request)

    open_it = Session.open
    monkeypatch.setattr(Session, "open", open_or_fail)


def _forge(path: Path, **seconds: float) -> None:
    """Keep times of the ONNX forms on the CPU, by their precision."""
    forged = [Measurement("onnx", "cpu", p, f"onnx/{p}.onnx", 0.0, (s,) * 3) for p, s in seconds.items()]
    measurements.save(Artifact.load(path), usable_cpus(), forged)


def test_a_form_that_does_not_open_gives_way_to_the_next_and_is_named(
    int8: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_to_open(monkeypatch, BackendUnavailable("no room for int8"), "int8")
    _forge(int8, int8=1.0, fp32=2.0)
    with Predictor(int8, max_drift=1e-3) as predictor:
        explanation = predictor.explain()
    assert explanation.running.file == "onnx/fp32.onnx"
    why = {refusal.what: refusal.why for refusal in explanation.refused}
    assert why["onnx int8 on cpu (onnx/int8.onnx)"] == "no room for int8"
    assert why["eager fp32 (model.safetensors)"].startswith("not tried, because it loads a heavy framework")


def test_a_framework_that_cannot_be_imported_gives_way_to_the_next(
    int8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "broken_stub.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')")
    monkeypatch.setattr(OnnxBackend, "framework", "broken_stub")
    with Predictor(int8) as predictor:
        assert predictor.explain().running.backend != "onnx"
        refused = {refusal.what: refusal.why for refusal in predictor.explain().refused}
    assert "broken_stub cannot be imported (OSError: libcudart" in refused["onnx fp32 (onnx/fp32.onnx)"]


def test_a_form_that_is_another_model_is_warned_of_unless_it_was_named(
    int8: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_to_open(monkeypatch, VerificationFailed("it is off"), "int8")
    _forge(int8, int8=1.0, fp32=2.0)
    with pytest.warns(UserWarning, match=r"^not used, because it is not the model that it should be: it is off$"):
        Predictor(int8, max_drift=1e-3).close()
    with Predictor(int8, backend="onnx", device="cpu", max_drift=1e-3) as predictor:  # a warning would be an error
        assert [str(r) for r in predictor.explain().refused] == ["onnx int8 on cpu (onnx/int8.onnx): it is off"]


@pytest.mark.parametrize("measured", [False, True])
def test_a_form_that_a_writer_takes_away_while_it_is_opened_is_not_ruled_out(
    int8: Path, monkeypatch: pytest.MonkeyPatch, measured: bool
) -> None:
    def open_late(candidate: Candidate, fingerprint: Fingerprint, request: Request) -> Session:
        if candidate.precision == "int8":  # what replacing a form does first
            edit_manifest(int8, lambda body: body["compiled"].pop())
            candidate.source.unlink()
        return open_it(candidate, fingerprint, request)

    if measured:
        _forge(int8, int8=1.0, fp32=2.0)
    before, open_it = Artifact.load(int8), Session.open
    monkeypatch.setattr(Session, "open", open_late)
    with Predictor(int8, max_drift=1e-3) as predictor:
        explanation = predictor.explain()
    assert explanation.running.file == "onnx/fp32.onnx"
    assert not [refusal for refusal in explanation.refused if "int8" in refusal.what]
    assert not [m for m in measurements.load(before, usable_cpus()) if m.problem]


def test_where_no_form_opens_the_error_is_its_own_or_has_all_reasons(
    int8: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_to_open(monkeypatch, ArtifactError("it is off"), "fp32", "int8")
    _forge(int8, int8=1.0, fp32=2.0)
    with pytest.raises(ArtifactError, match=r"^it is off$"):
        Predictor(int8, backend="onnx", device="cpu", max_drift=1e-3)
    with pytest.raises(BackendUnavailable) as failed:
        Predictor(int8, device="cpu", precision="int8")
    said, *reasons = str(failed.value).split(ITEM)
    assert said == f"{int8}: no form of it can serve this request here:"
    assert "onnx int8 on cpu (onnx/int8.onnx): it is off" in reasons


def test_a_form_whose_measurement_has_a_problem_is_opened_where_no_other_serves(
    int8: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was wrong then need not be wrong now: a full memory, a missing library, the limit of another request."""
    broken = Measurement("onnx", "cpu", "int8", "onnx/int8.onnx", problem="it was off")
    _forge(int8, fp32=2.0)
    measurements.save(Artifact.load(int8), usable_cpus(), [broken])
    with monkeypatch.context() as patched:
        fail_to_open(patched, ArtifactError("it was opened"), "int8")
        with Predictor(int8, backend="onnx", device="cpu", max_drift=1e-3) as predictor:
            assert [str(r) for r in predictor.explain().refused] == ["onnx int8 on cpu (onnx/int8.onnx): it was off"]
        with pytest.raises(ArtifactError, match=r"^it was opened$"):
            Predictor(int8, backend="onnx", device="cpu", precision="int8")
    with Predictor(int8, backend="onnx", device="cpu", precision="int8") as predictor:
        assert predictor.explain().running.precision == "int8"


def test_a_limit_is_named_as_it_was_asked_for(int8: Path) -> None:
    edit_manifest(int8, lambda body: body["compiled"][-1].update(drift=9e-4))
    _, refused = list_candidates(Artifact.load(int8), Request("onnx", device="cpu", max_drift=1.5e-4))
    assert [refusal.why for refusal in refused] == ["its measured drift 9.0e-04 is over 0.00015"]


def test_the_limit_of_a_measurement_is_not_that_of_later_requests(int8: Path) -> None:
    edit_manifest(int8, lambda body: body["compiled"][-1].update(drift=1e-9))  # less than it is
    strict, loose = (Request("onnx", device="cpu", max_drift=limit) for limit in (1e-8, 1e-3))
    found = {m.file: m for m in tune(int8, strict)[0]}
    problem = f"its drift here is {found['onnx/int8.onnx'].drift:.1e}, over 1e-08"
    assert {file: m.problem for file, m in found.items()} == {"onnx/fp32.onnx": None, "onnx/int8.onnx": problem}
    with Predictor.from_request(int8, strict) as predictor:
        assert [str(r) for r in predictor.explain().refused] == [f"onnx int8 on cpu (onnx/int8.onnx): {problem}"]
    _forge(int8, fp32=1e9)
    with Predictor.from_request(int8, loose) as predictor:
        assert predictor.explain().running.precision == "int8"


@pytest.mark.parametrize(("fast", "slow"), [("int8", "fp32"), ("fp32", "int8")])
def test_the_measurement_decides(int8: Path, fast: str, slow: str) -> None:
    _forge(int8, **{fast: 1.0, slow: 2.0})
    with Predictor(int8, device="cpu", max_drift=1e-3) as predictor:
        explanation = predictor.explain()
    assert explanation.running.file == f"onnx/{fast}.onnx"
    refused = {refusal.what: refusal.why for refusal in explanation.refused}
    assert refused[f"onnx {slow} on cpu (onnx/{slow}.onnx)"].startswith("slower here: 0 / 4 / 64 predictions/s")


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
