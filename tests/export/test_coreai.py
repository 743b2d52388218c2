"""Core AI assets, executed by Core AI's own runtime: every variety, and mistakes planted into their programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("coreai_torch", reason="coreai-torch is not installed; it comes with the extra coreai")

from export import formats
from export.coreai import export as module
from export.coreai.convert import compressed, coreai_form, operations, write_asset
from export.coreai.export import export_coreai
from export.coreai.options import PRECISIONS, SHAPES, CoreAIOptions, chosen
from export.coreai.stock import compare_stock, export_stock
from export.source import Source
from export.verify import Sample, make_samples
from lvm_runtime import Predictor
from lvm_runtime.artifact.config import ARCHITECTURES
from lvm_runtime.artifact.drift import DRIFT_LIMITS, max_drift
from lvm_runtime.artifact.fingerprint import random_contexts
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends.base import Array
from lvm_runtime.backends.coreai import CoreAIBackend
from lvm_runtime.errors import BackendUnavailable, InvalidInput, LvmError, VerificationFailed
from lvm_runtime.models import known_answers, save_model
from tests.artifacts import randomised, with_epsilon

DIM, LENGTH = 16, 2
SMALL = {
    "lstm": {"hidden_dim": 12, "num_layers": 2},
    "gru": {"hidden_dim": 12, "num_layers": 2},
    "transformer": {"hidden_dim": 8, "num_heads": 2, "ffn_dim": 12, "num_layers": 2},
    "amn": {"attention_dim": 8, "hidden_dim": 12, "bottleneck_dim": 8},
}
KINDS = [(shapes, precision) for shapes in SHAPES for precision in PRECISIONS]
USUAL = dict(zip(("transformer", "gru", "lstm", "amn"), KINDS, strict=True))
"""One kind of asset each, so that every shape and precision meets in the suite."""
SOAK = [(a, *k) for a in ARCHITECTURES for k in KINDS if k != USUAL[a] or a == "transformer"]  # which takes 7 s


def small_source(architecture: str, folder: Path) -> Source:
    """Return an artifact of a small model with every parameter random."""
    model = randomised(architecture, dim=DIM, context_length=LENGTH, **SMALL[architecture])
    return Source(save_model(model, folder / architecture), model)


def few(source: Source, count: int = 12) -> list[Sample]:
    """Return one sample of `count` contexts."""
    config = source.artifact.config
    return [Sample.of("random", source.model, random_contexts(count, config.context_length, config.dim))]


@pytest.mark.parametrize(
    ("architecture", "shapes", "precision"),
    [pytest.param(a, *k, marks=[pytest.mark.soak] * ((a, *k) in SOAK)) for a in ARCHITECTURES for k in KINDS],
)
def test_an_asset_is_executed_listed_and_serves(architecture: str, shapes: str, precision: str, tmp_path: Path) -> None:
    source = small_source(architecture, tmp_path)
    options = CoreAIOptions(shapes=shapes, precision=precision, batch_sizes=(1, 4))
    artifact = Artifact.load(export_coreai(source, few(source), options).path)
    (compiled,) = artifact.find("coreai")
    assert (compiled.file.path, compiled.precision) == (options.path, precision)
    assert compiled.batch_sizes == ((1, 4) if shapes == "static" else None)
    assert (0 if precision == "fp32" else 1e-9) < compiled.drift <= (1e-11 if precision == "fp32" else 1e-5)
    asset = artifact.file(compiled)
    assert (
        json.loads((asset / "metadata.json").read_text())["creatorDefinedMetadata"]["lvm.architecture"] == architecture
    )
    assert b".py" not in (asset / "main.mlirb").read_bytes(), "no paths of this machine"
    found = operations(asset)
    if shapes == "static":
        assert found["conv2d"] > 0
        assert {"cast", "get_shape", "broadcast_to"} & set(found) == set(), "all in one type, of known shape"
    contexts = random_contexts(9, LENGTH, DIM, seed=5)
    known, weights = known_answers(source.model, contexts)
    with Predictor(artifact.path, backend="coreai", precision=precision) as predictor:
        predictions = predictor.predict(contexts)
        assert max_drift(predictions, known) <= DRIFT_LIMITS[precision]
        np.testing.assert_allclose(np.linalg.norm(predictions, axis=1), 1, rtol=0, atol=1e-6)
        if weights is not None:
            _, attention = predictor.predict(contexts, return_attention=True)
            np.testing.assert_allclose(attention, weights, rtol=0, atol=1e-6 if precision == "fp32" else 2e-3)


def rotate_gates(form: Any) -> None:
    weight = form.form.input0_weight
    weight.copy_(weight.roll(SMALL["lstm"]["hidden_dim"], dims=1))


def see_the_future(form: Any) -> None:
    form.form.barred.fill_(False)


def forget_positions(form: Any) -> None:
    form.positions.zero_()


MISTAKES: dict[str, tuple[str, str, Callable[[Any], None]]] = {
    "rotated gates": ("lstm", "dynamic", rotate_gates),
    "no mask": ("transformer", "dynamic", see_the_future),
    "no positions": ("transformer", "static", forget_positions),
}


@pytest.mark.parametrize(
    "mistake", [pytest.param(name, marks=[pytest.mark.soak] * (i > 0)) for i, name in enumerate(MISTAKES)]
)
def test_a_planted_mistake_is_found_by_execution(mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    architecture, shapes, plant = MISTAKES[mistake]

    def broken(model: nn.Module, options: CoreAIOptions) -> nn.Module:
        form = coreai_form(model, options)
        with torch.no_grad():
            plant(form)
        return form

    monkeypatch.setattr(module, "coreai_form", broken)
    source = small_source(architecture, tmp_path)
    with pytest.raises(VerificationFailed, match=r"coreai fp32: largest drift .* nothing was kept"):
        export_coreai(source, few(source), CoreAIOptions(shapes=shapes, precision="fp32", batch_sizes=(1, 4)))
    assert Artifact.load(source.artifact.path).find("coreai") == ()
    assert not (source.artifact.path / "coreai").exists()


def test_the_stock_conversion_is_listed_beside_ours(tmp_path: Path) -> None:
    source = small_source("amn", tmp_path)
    options = CoreAIOptions(shapes="static", precision="fp16", batch_sizes=(2,))
    first, *table = compare_stock(source, few(source), options, tmp_path / "stock.aimodel").splitlines()
    assert first.startswith(f"{tmp_path}/stock.aimodel: the unmodified module, drift ")
    counts = {line.split()[0]: line.split()[1:] for line in table}
    assert counts["conv2d"] == ["5", "0"]
    assert counts["cast"] == ["0", "4"], "its layer norms leave fp16"
    assert (tmp_path / "stock.aimodel").is_dir()


def test_fp16_of_a_form_that_is_a_little_wrong_is_refused(tmp_path: Path) -> None:
    source = small_source("gru", tmp_path)
    options = CoreAIOptions(shapes="static", precision="fp16", batch_sizes=(2,))
    with pytest.raises(VerificationFailed, match=r"^coreai fp32: "):
        export_coreai(with_epsilon(source, 2e-5), few(source), options)
    assert Artifact.load(source.artifact.path).find("coreai") == ()


@pytest.mark.parametrize("stock", [False, True], ids=["ours", "stock"])
def test_the_function_of_each_batch_size_is_executed(
    stock: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also that of a size for which there are too few contexts, and a smaller one would do."""
    ran, run = set(), CoreAIBackend.run

    def note(backend: CoreAIBackend, contexts: Array) -> Array:
        ran.add(len(contexts))
        return run(backend, contexts)

    monkeypatch.setattr(CoreAIBackend, "run", note)
    source, options = (
        small_source("lstm", tmp_path),
        CoreAIOptions(shapes="static", precision="fp32", batch_sizes=(6, 40)),
    )
    if stock:
        export_stock(source, few(source), options, tmp_path / "stock.aimodel")
    else:
        export_coreai(source, few(source), options)
    assert ran == {6, 40}


@pytest.mark.parametrize(
    ("shapes", "precision", "names"),
    [
        (None, None, ["fp32", "fp16-static"]),
        ("static", None, ["fp16-static"]),
        (None, "fp32", ["fp32"]),
        ("static", "fp32", ["fp32-static"]),
        ("dynamic", "fp16", ["fp16"]),
    ],
)
def test_what_is_left_open_is_chosen(shapes: str | None, precision: str | None, names: list[str]) -> None:
    assert [options.name for options in chosen(shapes, precision)] == names


def wide_source(folder: Path) -> Source:
    """Return an AMN with matrices that are large enough to be compressed, 1,024 weights and more."""
    model = randomised("amn", dim=64, attention_dim=64, hidden_dim=128, bottleneck_dim=64)
    return Source(save_model(model, folder / "amn"), model)


@pytest.mark.parametrize("kind", ["palette8", "int8"])
def test_compressed_weights_count_as_int8(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("coreai_opt", reason="coreai-opt is not installed; it comes with the extra coreai-opt")
    source = wide_source(tmp_path)
    plain = CoreAIOptions(shapes="static", precision="fp16", batch_sizes=(1, 4))
    (options,) = chosen(None, None, plain.batch_sizes, kind)
    sizes = [export_coreai(source, few(source), each).find("coreai")[-1].file.bytes for each in (plain, options)]
    (compiled,) = Artifact.load(source.artifact.path).find("coreai", precision="int8")
    assert compiled.file.path == f"coreai/fp16-{kind}-static.aimodel"
    assert 1e-7 < compiled.drift <= 1e-4
    assert sizes[1] < 0.8 * sizes[0]
    with Predictor(source.artifact.path, backend="coreai", precision="int8") as predictor:
        norms = np.linalg.norm(predictor.predict(few(source)[0].contexts), axis=1)
        np.testing.assert_allclose(norms, 1, rtol=0, atol=1e-6)


def test_a_palette_that_is_too_coarse_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("coreai_opt", reason="coreai-opt is not installed; it comes with the extra coreai-opt")
    source = wide_source(tmp_path)
    with pytest.raises(VerificationFailed, match=r"--compress palette4: .*milder.* coreai int8: .* nothing was kept"):
        export_coreai(source, few(source), chosen(None, None, (1, 4), "palette4")[0])
    assert Artifact.load(source.artifact.path).find("coreai") == ()


def test_compression_without_its_extra_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "coreai_opt.coreai_utils", None)
    with pytest.raises(BackendUnavailable, match=r"compressing to int8 needs coreai_opt.*\.\[coreai-opt\]"):
        compressed(None, "int8")


def test_export_makes_it_where_the_converter_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "coreai" in formats.makeable()
    monkeypatch.setattr(formats, "installed", lambda name: False)
    assert "coreai" not in formats.makeable()


def test_choices_that_are_none_are_errors() -> None:
    with pytest.raises(InvalidInput, match="shapes is 'flexible', expected one of dynamic, static"):
        CoreAIOptions(shapes="flexible", precision="fp32")
    with pytest.raises(InvalidInput, match="batch_sizes is"):
        CoreAIOptions(shapes="static", precision="fp32", batch_sizes=(0,))


class Sorted(nn.Module):
    """Something that Core AI has no operation for."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvalsh(x @ x.transpose(1, 2))


def test_what_cannot_be_converted_is_an_error_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(LvmError, match=r"coreai-torch .* cannot convert this Sorted: .*eigh"):
        write_asset(Sorted(), CoreAIOptions(shapes="dynamic", precision="fp32"), (3, 3), tmp_path / "x.aimodel")
    assert not (tmp_path / "x.aimodel").exists()


LARGEST_MB = {"lstm": 11, "gru": 15, "transformer": 37, "amn": 4}


@pytest.mark.soak
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_full_size_for_the_neural_engine(architecture: str, tmp_path: Path) -> None:
    model = randomised(architecture, dim=768)
    source = Source(save_model(model, tmp_path / architecture), model)
    artifact = export_coreai(source, make_samples(source), CoreAIOptions(shapes="static", precision="fp16"))
    (compiled,) = artifact.find("coreai")
    assert compiled.drift <= 1e-5
    assert compiled.file.bytes <= LARGEST_MB[architecture] * 1e6, "four functions share their weights"
