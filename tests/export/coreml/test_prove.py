"""The proof of a package: each thing that can be wrong with it alone is found, with the figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from export.coreml import prove
from export.coreml.convert import convert, save_functions, write_package
from export.coreml.export import export_coreml
from export.coreml.forms import coreml_form
from export.coreml.options import CoreMLOptions
from export.coreml.prove import PackageRunner, prove_form, prove_package
from export.search_check import SearchCheck
from export.source import Source
from export.verify import Sample
from lvm_runtime.artifact.fingerprint import random_contexts
from lvm_runtime.backends import coreml as backend_module
from lvm_runtime.backends.base import Array
from lvm_runtime.errors import VerificationFailed
from tests.export.coreml.small import DIM, LENGTH, few, small_source

ONE = CoreMLOptions(shapes="static", batch_sizes=(2,))
ONE_FP32 = replace(ONE, precision="fp32")
TWO = CoreMLOptions(batch_sizes=(1, 3))
IN_FLOAT64 = "largest difference of the package in float64"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return small_source("amn", tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def package(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A right package, for batches of 1 and 3."""
    path = tmp_path_factory.mktemp("package") / "right.mlpackage"
    write_package(coreml_form(source.model), TWO, (LENGTH, DIM), path)
    return path


class Changed(nn.Module):
    """A form with something done to its input, and to its outputs."""

    def __init__(self, form: nn.Module, before: Callable[[Any], Any], after: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.form, self.before, self.after = form, before, after

    def forward(self, contexts: torch.Tensor) -> Any:
        """Run the form."""
        return self.after(*self.form(self.before(contexts)))


def same(x: Any) -> Any:
    return x


WRONG: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    "large inputs": (lambda x: x.clamp(-2.0, 2.0), lambda p, a: (p, a)),
    "attention": (same, lambda p, a: (p, a * 1.001)),
    "small difference": (same, lambda p, a: (p + 1e-5, a)),
}


@pytest.mark.parametrize("fault", WRONG)
def test_form_that_is_wrong_in_one_way_only_is_refused(fault: str, source: Source, tmp_path: Path) -> None:
    wrong = Changed(coreml_form(source.model), *WRONG[fault])
    write_package(wrong, ONE_FP32, (LENGTH, DIM), tmp_path / "wrong.mlpackage")
    with pytest.raises(VerificationFailed, match="largest difference of the fp32 package from the training form"):
        prove_form(tmp_path / "wrong.mlpackage", ONE_FP32.functions, source.model, few(source)[0].contexts)


def test_form_that_is_off_by_more_than_rounding_is_refused(source: Source, tmp_path: Path) -> None:
    wrong = Changed(coreml_form(source.model), same, lambda p, a: (p + 1e-6, a))
    write_package(wrong, ONE_FP32, (LENGTH, DIM), tmp_path / "wrong.mlpackage")
    with pytest.raises(VerificationFailed, match=r"median drift .* of the fp32 package .* is .*e-1[123], expected"):
        prove_form(tmp_path / "wrong.mlpackage", ONE_FP32.functions, source.model, few(source)[0].contexts)


def test_mistake_in_one_batch_size_is_found(source: Source, tmp_path: Path) -> None:
    right = coreml_form(source.model)
    options = CoreMLOptions(batch_sizes=(1, 2, 3), precision="fp32")
    forms = {1: right, 2: Changed(right, same, lambda p, a: (p.flip(1), a)), 3: right}
    programs = {name: convert(forms[n], options, (LENGTH, DIM), (n,)) for n, name in options.functions.items()}
    path = tmp_path / "three.mlpackage"
    save_functions(programs, path)
    samples = few(source)
    assert prove_form(path, {1: "batch1", 3: "batch3"}, source.model, samples[0].contexts) <= 2e-6
    with pytest.raises(VerificationFailed, match="of the fp32 package from the training form"):
        prove_form(path, options.functions, source.model, samples[0].contexts)
    with pytest.raises(VerificationFailed, match=IN_FLOAT64):
        prove_package(path, options, samples, form_difference=0.0)


def shifted(sample: Sample, by: float) -> Sample:
    """Return known answers whose first component is off."""
    return replace(sample, predictions=sample.predictions + by * np.eye(DIM)[0])


def with_last_turned(sample: Sample) -> Sample:
    """Return known answers of which the last, which only the drift is measured for, points the other way."""
    return replace(sample, predictions=np.concatenate([sample.predictions[:-1], -sample.predictions[-1:]]))


def with_attention_off(sample: Sample) -> Sample:
    assert sample.attention is not None
    return replace(sample, attention=sample.attention + 3e-3)


FAULTS: dict[str, tuple[Callable[[Sample], list[Sample]], str]] = {
    "components": (lambda right: [shifted(right, 1.5e-3)], IN_FLOAT64),
    "second sample": (lambda right: [right, shifted(right, 1.5e-3)], IN_FLOAT64),
    "a row beyond the batch": (lambda right: [with_last_turned(right)], r"drift \(1 - cosine\) from the training form"),
    "attention": (lambda right: [with_attention_off(right)], "largest difference in an attention weight"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_package_that_is_wrong_in_one_way_only_is_refused(fault: str, source: Source, package: Path) -> None:
    answers, message = FAULTS[fault]
    prove_package(package, TWO, few(source), form_difference=0.0)
    with pytest.raises(VerificationFailed, match=message):
        prove_package(package, TWO, answers(few(source)[0]), form_difference=0.0)


class Normalised(nn.Module):
    """The mean of a context; `detour` is added and taken off again, and no norm counts as less than `least`."""

    def __init__(self, *, detour: float = 0.0, least: float = 0.0) -> None:
        super().__init__()
        self.detour, self.least = detour, least

    def forward(self, contexts: torch.Tensor) -> torch.Tensor:
        """Return the normalised mean."""
        mean = (contexts + self.detour).mean(1) - self.detour
        return mean / mean.norm(dim=1, keepdim=True).clamp(min=self.least)


def means(count: int = 4) -> Sample:
    contexts = random_contexts(count, LENGTH, DIM)
    mean = contexts.astype(np.float64).mean(1)
    return Sample("random", contexts, mean / np.linalg.norm(mean, axis=1, keepdims=True), None)


def test_results_that_rounding_spoils_are_refused(tmp_path: Path) -> None:
    """Numbers around 4 have steps of 0.004 in fp16: the function is right, and its arithmetic is not."""
    write_package(Normalised(detour=4.0, least=0.1).eval(), ONE, (LENGTH, DIM), tmp_path / "p.mlpackage")
    with pytest.raises(VerificationFailed, match="largest difference of the package, rounded, is"):
        prove_package(tmp_path / "p.mlpackage", ONE, [means()], form_difference=0.0)


def test_zero_contexts_that_give_nan_are_refused(tmp_path: Path) -> None:
    write_package(Normalised().eval(), ONE, (LENGTH, DIM), tmp_path / "p.mlpackage")
    with pytest.raises(VerificationFailed, match="zeros make prediction NaN"):
        prove_package(tmp_path / "p.mlpackage", ONE, [means()], form_difference=0.0)


def test_package_has_to_find_what_the_training_form_finds(source: Source, package: Path, tmp_path: Path) -> None:
    vectors = random_contexts(60, LENGTH, DIM).reshape(-1, DIM)
    np.savez(tmp_path / "c.npz", vectors=vectors, doc_ids=np.repeat(np.arange(18), 10))
    check = SearchCheck.of(source.model, tmp_path / "c.npz")
    samples = [replace(sample, search=check) for sample in few(source)]
    found = prove_package(package, TWO, samples, form_difference=0.0).search
    assert found is not None
    unreachable = [replace(sample, search=replace(check, limit=2.0)) for sample in samples]
    with pytest.raises(VerificationFailed, match=r"coreml: finds .* expected an overlap ≥ 2"):
        prove_package(package, TWO, unreachable, form_difference=0.0)


def test_compressed_package_whose_answers_are_too_long_is_refused(source: Source, tmp_path: Path) -> None:
    wrong = Changed(coreml_form(source.model), same, lambda p, a: (p * 1.02, a))
    write_package(wrong, TWO, (LENGTH, DIM), tmp_path / "wrong.mlpackage")
    with pytest.raises(VerificationFailed, match=r"length of a prediction, rounded, is .*e-02, expected ≤ 1\.0e-02"):
        prove_package(tmp_path / "wrong.mlpackage", replace(TWO, compress="palette8"), few(source), form_difference=0.0)


class StandIn:
    """What Core ML may do on a Mac: right answers, but for `off` in the first component at batch 1."""

    off = 0.0

    def __init__(self, package: Path, *, device: str) -> None:
        self._runner = PackageRunner(package, TWO.functions, mode="fp16")

    def run(self, contexts: Array) -> Array:
        return self._runner.run(contexts) + np.float32(self.off * (len(contexts) == 1)) * np.eye(DIM)[0]

    def close(self) -> None:
        """Nothing to release."""


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    monkeypatch.setattr(prove, "platform", SimpleNamespace(system=lambda: "Darwin"))
    monkeypatch.setattr(backend_module, "CoreMLBackend", StandIn)
    monkeypatch.setattr(StandIn, "off", 0.0)
    return StandIn


def test_what_core_ml_does_on_a_mac_counts(
    mac: type[StandIn], source: Source, package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(mac, "off", 0.1)
    with pytest.raises(VerificationFailed, match="in Core ML on this Mac"):
        prove_package(package, TWO, few(source), form_difference=0.0)
    compressed = replace(TWO, compress="palette8")
    with pytest.raises(VerificationFailed, match="--compress palette8: drift"):
        prove_package(package, compressed, few(source), form_difference=0.0)
    monkeypatch.setattr(mac, "off", 0.01)
    artifact = export_coreml(small_source("amn", tmp_path), few(source), TWO)
    (compiled,) = artifact.find("coreml")
    assert compiled.drift == compiled.details["core_ml_drift"] > 1e-5
