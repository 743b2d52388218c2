"""What is kept of a measurement, and under what; what is measured where nothing can be kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lvm_runtime import Predictor
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends.onnx import OnnxBackend
from lvm_runtime.models import load_model
from lvm_runtime.request import Request
from lvm_runtime.selection import measurements
from lvm_runtime.selection.measurements import Measurement
from lvm_runtime.selection.tuning import tune
from lvm_runtime.system import machine
from lvm_runtime.system.cpus import usable_cpus
from tests.artifacts import add_onnx, make_artifact, some_contexts

Get = Callable[[str], Path]


@pytest.mark.parametrize(
    "where", ["read-only", *(pytest.param(other, marks=pytest.mark.soak) for other in ("a file", "no home"))]
)
def test_without_a_cache_folder_forms_are_measured_and_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
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
    artifact = make_artifact(tmp_path / "amn")
    artifact = add_onnx(artifact, load_model(artifact), "onnx/int8.onnx", precision="int8", drift=5e-4)
    with Predictor(artifact.path, max_drift=1e-3) as predictor:
        assert predictor.predict(some_contexts(2)).shape == (2, 16)
    told: list[str] = []
    tune(artifact.path, Request("onnx", max_drift=1e-3, device="cpu"), report=told.append)
    assert any("cache folder cannot be written" in line for line in told)
    assert measurements.load(artifact, 1) == []


@pytest.mark.parametrize("setting", [("LVM_NATIVE_PATH", "plain"), ("CUDA_VISIBLE_DEVICES", "")], ids=str)
def test_what_was_measured_on_other_instructions_or_gpus_is_not_used(
    small_artifacts: Get, monkeypatch: pytest.MonkeyPatch, setting: tuple[str, str]
) -> None:
    artifact = Artifact.load(small_artifacts("amn"))
    monkeypatch.setenv(*setting)
    measurements.save(artifact, 1, [_measured("native")])
    assert measurements.load(artifact, 1) == [_measured("native")]
    monkeypatch.delenv(setting[0])
    assert measurements.load(artifact, 1) == []


@pytest.mark.parametrize(
    "wrong",
    [{"seconds": [1.0]}, {"seconds": None}, {"seconds": ["a", "b", "c"]}, {"seconds": [0.0] * 3}, {"drift": "x"},
     {"drift": None}, {"problem": 7}, {"file": {}}, {"device": None}, {"other": 1}, "no item"],
    ids=str,
)  # fmt: skip
def test_a_damaged_measurement_is_measured_again(small_artifacts: Get, wrong: dict[str, object] | str) -> None:
    artifact = Artifact.load(small_artifacts("amn"))
    path = measurements.save(artifact, 1, [_measured("onnx")])
    assert path is not None
    body = json.loads(path.read_text())
    (item,) = body["measurements"]
    path.write_text(json.dumps(body | {"measurements": [item | wrong if isinstance(wrong, dict) else wrong]}))
    assert measurements.load(artifact, 1) == []


def _measured(name: str, seconds: float = 1.0) -> Measurement:
    return Measurement(name, "cpu", "fp32", "f", 0.0, (seconds,) * 3)


def test_a_measurement_replaces_its_own_form_and_no_other(small_artifacts: Get) -> None:
    artifact = Artifact.load(small_artifacts("amn"))
    for name, seconds in (("onnx", 1.0), ("eager", 2.0), ("onnx", 3.0)):
        measurements.save(artifact, 2, [_measured(name, seconds)])
    assert {m.backend: m.seconds[0] for m in measurements.load(artifact, 2)} == {"onnx": 3.0, "eager": 2.0}


@pytest.mark.parametrize("other", ["version", "numpy", "processor", "features", "artifact", "threads"])
def test_what_was_measured_on_something_else_does_not_count(
    other: str, small_artifacts: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, threads = Artifact.load(small_artifacts("amn")), 2
    measurements.save(artifact, threads, [_measured("onnx")])
    assert measurements.load(artifact, threads) == [_measured("onnx")]
    if other == "version":
        monkeypatch.setattr(OnnxBackend, "version", lambda: "99.0")
    elif other == "numpy":
        monkeypatch.setattr(np, "__version__", "99.0")
    elif other == "processor":
        here = machine.identity()
        monkeypatch.setattr(machine, "identity", lambda: here | {"processor": "another"})
    elif other == "features":  # hidden from a virtual machine on the same processor
        monkeypatch.setattr(machine, "features", lambda: ["another"])
    elif other == "artifact":
        artifact = Artifact.load(small_artifacts("gru"))
    else:
        threads = 3
    assert measurements.load(artifact, threads) == []


def test_what_is_kept_is_listed_and_cleared(small_artifacts: Get) -> None:
    assert measurements.list_kept() == []
    assert measurements.clear() == []
    one, two = (Artifact.load(small_artifacts(name)) for name in ("amn", "gru"))
    good = measurements.save(one, 2, [_measured("onnx"), _measured("eager")])
    single = measurements.save(one, 1, [_measured("onnx")])
    bad, half = (measurements.save(two, threads, [_measured("onnx")]) for threads in (3, 4))
    assert good is not None
    assert single is not None
    assert bad is not None
    assert half is not None
    bad.write_bytes(b"{")
    half.write_bytes(b'{"measurements": []}')
    unread = "cannot be read, and will be measured again"
    processor = machine.identity()["processor"]
    lines = {good: f"2 forms, 2 threads, {processor}", single: f"1 form, 1 thread, {processor}"}
    lines |= {bad: unread, half: unread}
    assert measurements.list_kept() == sorted(lines.items())
    assert measurements.clear() == sorted(lines)
    assert measurements.list_kept() == []
    assert not good.parent.parent.exists()


def test_without_a_home_nothing_is_kept(small_artifacts: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements, "cache_folder", lambda: None)
    artifact = Artifact.load(small_artifacts("amn"))
    assert measurements.save(artifact, 2, [_measured("onnx")]) is None
    assert measurements.load(artifact, 2) == measurements.list_kept() == measurements.clear() == []


def test_a_damaged_cache_is_measured_again(small_artifacts: Get) -> None:
    artifact = Artifact.load(small_artifacts("amn"))
    file = measurements.save(artifact, 2, [_measured("onnx")])
    assert file is not None
    file.write_bytes(b"{")
    assert measurements.load(artifact, 2) == []


def test_forms_are_chosen_by_what_was_measured_with_their_threads(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "amn")
    artifact = add_onnx(artifact, load_model(artifact), "onnx/int8.onnx", precision="int8", drift=5e-4)
    threads = usable_cpus() + 1
    for count, fastest in ((threads, "onnx/int8.onnx"), (usable_cpus(), "onnx/fp32.onnx")):
        found, _ = tune(artifact.path, Request("onnx", device="cpu", max_drift=1e-3, threads=count))
        assert {m.identity for m in measurements.load(artifact, count)} == {m.identity for m in found}
        forged = [replace(m, seconds=(1.0 if m.file == fastest else 2.0,) * 3) for m in found]
        measurements.save(artifact, count, forged)
    for count, expected in ((threads, "int8"), (None, "fp32")):
        with Predictor(artifact.path, backend="onnx", device="cpu", max_drift=1e-3, threads=count) as predictor:
            assert predictor.explain().running.precision == expected
