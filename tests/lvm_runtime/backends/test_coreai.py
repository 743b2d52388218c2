"""Core AI's runtime behind a Predictor: by name only, from any thread or event loop, and damaged assets refused."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("coreai_torch", reason="coreai-torch is not installed; it comes with the extra coreai")

from export.coreai.export import export_coreai
from export.coreai.options import USUAL, CoreAIOptions, chosen
from export.source import Source
from export.verify import make_samples
from lvm_runtime import Predictor
from lvm_runtime.artifact.drift import max_drift
from lvm_runtime.backends import coreai
from lvm_runtime.backends.coreai import CoreAIBackend
from lvm_runtime.commands.doctor import describe_machine
from lvm_runtime.errors import ArtifactError, BackendUnavailable
from lvm_runtime.models import known_answers, save_model
from tests.artifacts import randomised, some_contexts

SIZES = (1, 4)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Return a small AMN with both usual assets."""
    model = randomised("amn")
    source = Source(save_model(model, tmp_path_factory.mktemp("coreai") / "amn"), model)
    for options in chosen(None, None, SIZES):
        export_coreai(source, make_samples(source), options)
    return source


def asset(source: Source, shapes: str = "static") -> Path:
    return source.artifact.path / next(usual.path for usual in USUAL if usual.shapes == shapes)


def test_it_serves_by_name_only_and_says_that_it_is_the_reference_runtime(source: Source) -> None:
    contexts = some_contexts(7)
    with Predictor(source.artifact.path, backend="coreai") as predictor:
        assert max_drift(predictor.predict(contexts), known_answers(source.model, contexts)[0]) <= 1e-11
        assert "coreai fp32 on cpu (reference runtime)" in str(predictor.explain())
    with Predictor(source.artifact.path, max_drift=1e-4) as predictor:
        refused = {str(refusal) for refusal in predictor.explain().refused}
    assert len([text for text in refused if text.startswith("coreai") and "ask for it by name" in text]) == 2


def test_only_dynamic_shapes_in_fp32_take_long_vectors(source: Source, tmp_path: Path) -> None:
    """The Transformer's static form adds to the scores of barred positions what those of long vectors exceed."""
    copy = Source(save_model(source.model, tmp_path / "amn"), source.model)
    options = CoreAIOptions(shapes="static", precision="fp32", batch_sizes=(1,))
    export_coreai(copy, make_samples(copy), options)
    for file, bound in (
        (asset(source, "dynamic"), 1e6),
        (asset(source, "static"), 200),
        (tmp_path / "amn" / options.path, 200),
    ):
        backend = CoreAIBackend(file)
        assert backend.largest_norm == bound, file
        backend.close()


def test_one_backend_serves_threads_and_event_loops_at_once(source: Source) -> None:
    backend = CoreAIBackend(asset(source))
    assert backend.batch_sizes == SIZES
    batches = [some_contexts(SIZES[i % 2], seed=i) for i in range(12)]
    expected = [backend.run(batch) for batch in batches]

    async def inside() -> Any:
        return backend.run(batches[0])

    np.testing.assert_array_equal(asyncio.run(inside()), expected[0])
    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(backend.run, batches), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
    backend.close()
    assert "lvm-coreai" not in {thread.name for thread in threading.enumerate()}


def test_serving_loads_neither_torch_nor_onnxruntime(source: Source) -> None:
    script = f"""
import sys
from lvm_runtime import Predictor
Predictor({str(source.artifact.path)!r}, backend="coreai")
assert not {{"torch", "onnxruntime"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_options_that_it_cannot_honour_are_errors(source: Source) -> None:
    for options, message in (
        ({"threads": 2}, "chooses its threads itself"),
        ({"device": "ane"}, r"has no device 'ane' here; it has cpu, and on macOS 27 or later all, ane, gpu, cpu"),
    ):
        with pytest.raises(BackendUnavailable, match=message):
            CoreAIBackend(asset(source), **options)  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match="says that it is fp16, and it is listed or was asked for as fp32"):
        CoreAIBackend(asset(source), precision="fp32")


def swap_hash(folder: Path) -> None:
    (folder / "main.hash").write_bytes(hashlib.sha256(b"another program").digest())


def cut(folder: Path) -> None:
    program = folder / "main.mlirb"
    program.write_bytes(program.read_bytes()[:-100])


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut": cut,
    "another hash": swap_hash,
    "no program": lambda folder: (folder / "main.mlirb").unlink(),
    "no folder": shutil.rmtree,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_asset_is_an_error_that_names_it(damage: str, source: Source, tmp_path: Path) -> None:
    copy = tmp_path / "copy.aimodel"
    shutil.copytree(asset(source), copy)
    DAMAGES[damage](copy)
    with pytest.raises(ArtifactError, match=str(copy)):
        CoreAIBackend(copy)


def test_a_device_is_core_ais_compute_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What macOS 27 has, played by strings: nothing of it is there on another system."""
    names = ("cpu", "gpu", "neural_engine")
    runtime = SimpleNamespace(
        ComputeUnitKind=SimpleNamespace(**{name: (lambda name=name: name) for name in names}),
        SpecializationOptions=SimpleNamespace(
            is_supported=lambda: True,
            default=lambda: "default",
            cpu_only=lambda: "cpu_only",
            from_preferred_compute_unit_kind=lambda kind: f"prefer {kind}",
        ),
    )
    load = coreai.load
    monkeypatch.setattr(coreai, "load", lambda name: runtime if name == "coreai.runtime" else load(name))
    assert CoreAIBackend.devices() == ["all", "ane", "gpu", "cpu"]
    options = [coreai.specialisation(device) for device in CoreAIBackend.devices()]
    assert options == ["default", "prefer neural_engine", "prefer gpu", "cpu_only"]
    assert "all, ane, gpu, cpu" in CoreAIBackend.describe()


def test_the_doctor_says_what_it_is_and_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def line() -> str:
        return next(line for line in describe_machine().splitlines() if line.startswith("coreai "))

    assert "cpu by the slow reference runtime" in line()
    monkeypatch.setattr("lvm_runtime.system.extras.find_spec", lambda name: None)
    assert "it needs coreai; install it with: pip install -e '.[coreai]'" in line()
    monkeypatch.setattr(coreai.sys, "version_info", (3, 10))
    assert "needs Python 3.11 or later, and this is 3.10" in line()
