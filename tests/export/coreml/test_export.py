"""Packages: made in every variety at small widths, one of each architecture at full size, and planted mistakes."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import export.coreml.export as export_module
import export.coreml.stock as stock_module
from export.ane_lint import Level, lint_package
from export.coreml.__main__ import build_parser, options_from
from export.coreml.compress import compressed
from export.coreml.convert import convert, quiet, save_functions, write_package
from export.coreml.export import export_coreml
from export.coreml.forms import coreml_form
from export.coreml.options import CoreMLOptions
from export.coreml.prove import prove_package
from export.coreml.stock import export_stock
from export.mil_reference import load_program, operations
from export.source import Source
from export.verify import make_samples
from lvm_runtime.artifact.config import ARCHITECTURES
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.coreml.package import FUNCTIONS, import_coremltools, read_package
from lvm_runtime.errors import InvalidInput, VerificationFailed
from lvm_runtime.models import save_model
from tests.artifacts import randomised
from tests.export.coreml.small import DIM, LENGTH, few, small_source

FORBIDDEN = {"shape", "gather", "while_loop", "tile", "select", "lstm", "gru", "scatter", "fill", "linear"}
KINDS = [(shapes, precision) for shapes in ("multifunction", "enumerated") for precision in ("fp16", "fp32")]
USUAL = dict(zip(ARCHITECTURES, KINDS, strict=True))
"""One kind of package each, so that every architecture, shape, precision and compression meets in the suite."""
DRIFT = {"none": 1e-4, "palette8": 1e-4, "int8": 1e-3, "palette6": 3e-3, "palette4": 5e-2}


def unless(condition: bool) -> tuple[pytest.MarkDecorator, ...]:
    """Leave a case to `make soak`, unless `condition` holds: the suite tries each kind once per architecture."""
    return () if condition else (pytest.mark.soak,)


@pytest.mark.parametrize(
    ("architecture", "shapes", "precision"),
    [pytest.param(a, *kind, marks=unless(kind == USUAL[a])) for a in ARCHITECTURES for kind in KINDS],
)
def test_package_is_proved_described_and_clean(architecture: str, shapes: str, precision: str, tmp_path: Path) -> None:
    source = small_source(architecture, tmp_path)
    options = CoreMLOptions(shapes=shapes, precision=precision, batch_sizes=(1, 3))
    artifact = export_coreml(source, few(source), options)
    (compiled,) = Artifact.load(artifact.path).find("coreml")
    assert (compiled.precision, compiled.batch_sizes) == (precision, (1, 3))
    assert compiled.drift <= (1e-4 if precision == "fp16" else 1e-9)
    assert compiled.details["form_difference"] <= 2e-6
    package = artifact.file(compiled)
    assert read_package(package).functions == options.functions
    (tmp_path / "plain").touch()
    modes = {file.stat().st_mode for file in package.rglob("*") if file.is_file()}
    assert modes == {(tmp_path / "plain").stat().st_mode}, "other users may read it if they may read other files"
    kinds = Counter(op.op_type for op in operations(load_program(package)))
    assert sorted(FORBIDDEN & set(kinds)) == []
    findings = [f for f in lint_package(package) if f.level is not Level.NOTE]
    assert [f for f in findings if precision == "fp16" or f.rule != "fp32"] == []
    assert any(f.rule == "fp32" for f in findings) == (precision == "fp32")


@pytest.fixture(scope="module")
def converted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Source, CoreMLOptions, dict[str, Any]]:
    """A source, and its uncompressed programs by function name, converted once for all compressions."""
    architecture, shapes, precision = request.param
    source = small_source(architecture, tmp_path_factory.mktemp("converted"))
    options = CoreMLOptions(shapes=shapes, precision=precision, batch_sizes=(1, 3))
    form = coreml_form(source.model)
    programs = {n: convert(form, options, (LENGTH, DIM), sizes) for n, sizes in options.programs.items()}
    return source, options, programs


COMPRESSED = {"lstm": "palette8", "gru": "palette6", "transformer": "int8", "amn": "palette4"}


@pytest.mark.parametrize(
    ("converted", "kind"),
    [
        pytest.param(
            (a, *shape),
            kind,
            id="-".join((a, *shape, kind)),
            marks=unless(shape == USUAL[a] and kind == COMPRESSED[a]),
        )
        for a in ARCHITECTURES
        for shape in KINDS
        for kind in ("palette8", "palette6", "palette4", "int8")
    ],
    indirect=["converted"],
)
def test_compressed_package_is_proved_and_clean(
    converted: tuple[Source, CoreMLOptions, dict[str, Any]], kind: str, tmp_path: Path
) -> None:
    source, plain, programs = converted
    options = replace(plain, compress=kind, max_drift=DRIFT[kind])
    package = tmp_path / "compressed.mlpackage"
    with quiet():
        save_functions({name: compressed(program, kind) for name, program in programs.items()}, package)
    kinds = Counter(op.op_type for op in operations(load_program(package)))
    assert any(name.startswith("constexpr_") for name in kinds)
    proof = prove_package(package, options, few(source), form_difference=0.0)
    assert 0.0 < proof.worst_drift <= DRIFT[kind]
    findings = [f for f in lint_package(package) if f.level is not Level.NOTE]
    assert [f for f in findings if plain.precision == "fp16" or f.rule != "fp32"] == []
    with pytest.raises(VerificationFailed, match=f"--compress {kind}: drift .* use milder compression"):
        prove_package(package, replace(options, max_drift=proof.worst_drift / 2), few(source), form_difference=0.0)


@pytest.mark.parametrize("kind", ["palette8", "int8"])
def test_macos_13_stores_compressed_weights_in_its_own_way(kind: str, tmp_path: Path) -> None:
    source = small_source("amn", tmp_path)
    options = CoreMLOptions(shapes="static", batch_sizes=(2,), compress=kind, target="macOS13")
    package = tmp_path / "old.mlpackage"
    write_package(coreml_form(source.model), options, (LENGTH, DIM), package)
    kinds = {op.op_type for op in operations(load_program(package))}
    assert kinds & {"constexpr_lut_to_dense", "constexpr_affine_dequantize"}
    prove_package(package, options, few(source), form_difference=0.0)


def test_too_strong_compression_leaves_nothing_behind(tmp_path: Path) -> None:
    source = small_source("amn", tmp_path)
    options = CoreMLOptions(shapes="static", batch_sizes=(1,), compress="palette4", max_drift=1e-6)
    with pytest.raises(VerificationFailed, match="palette4: drift"):
        export_coreml(source, few(source), options)
    assert not (source.artifact.path / "coreml").exists()
    assert Artifact.load(source.artifact.path).find("coreml") == ()


@pytest.mark.soak
def test_compressed_multifunction_package_shares_its_weights(tmp_path: Path) -> None:
    source = small_source("amn", tmp_path)
    sizes = []
    for batch_sizes in ((1,), (1, 2)):
        options = CoreMLOptions(batch_sizes=batch_sizes, compress="palette8")
        artifact = export_coreml(source, few(source), options)
        compiled = artifact.find("coreml")[-1]
        assert compiled.precision == "int8"
        weights = artifact.file(compiled) / "Data/com.apple.CoreML/weights/weight.bin"
        sizes.append(weights.stat().st_size)
    assert sizes[1] < 1.1 * sizes[0]


def rotated_gates(form: Any) -> None:
    """Take the LSTM's input gate for its forget gate, and so on."""
    conv = form.layers[0].from_input
    conv.weight.copy_(conv.weight.roll(32, 0))


def missing_mask(form: Any) -> None:
    """Let every position see the future."""
    form.layers[0].mask.zero_()


def missing_positions(form: Any) -> None:
    """Forget the positions."""
    form.positions.zero_()


def swapped_layers(form: Any) -> None:
    """Run the first block's GRU in the second block and the other way round."""
    first, second = form.blocks[0].from_state, form.blocks[1].from_state
    weights = first.weight.clone()
    first.weight.copy_(second.weight)
    second.weight.copy_(weights)


def sharp_keys(form: Any) -> None:
    """Make the attention 5 % sharper."""
    form.key.weight.mul_(1.05)


def forgotten_reset_bias(form: Any) -> None:
    """Leave out the new gate's hidden bias in the first step."""
    form.blocks[0].new_bias.zero_()


MISTAKES: dict[str, tuple[str, Callable[[Any], None]]] = {
    "rotated gates": ("lstm", rotated_gates),
    "missing mask": ("transformer", missing_mask),
    "missing positions": ("transformer", missing_positions),
    "swapped layers": ("gru", swapped_layers),
    "keys x1.05": ("amn", sharp_keys),
    "forgotten bias": ("gru", forgotten_reset_bias),
}


@pytest.mark.parametrize(
    "mistake", [pytest.param(m, marks=unless(m not in ("missing positions", "swapped layers"))) for m in MISTAKES]
)
def test_planted_mistake_is_caught_and_leaves_no_package(
    mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture, plant = MISTAKES[mistake]
    source = small_source(architecture, tmp_path)

    def wrong_form(model: nn.Module, *, gelu: str) -> nn.Module:
        form = coreml_form(copy.deepcopy(model), gelu=gelu)
        with torch.no_grad():
            plant(form)
        return form

    monkeypatch.setattr(export_module, "coreml_form", wrong_form)
    with pytest.raises(VerificationFailed, match="difference of the fp32 package from the training form"):
        export_coreml(source, few(source), CoreMLOptions(shapes="static", batch_sizes=(2,), precision="fp32"))
    assert not (source.artifact.path / "coreml").exists()


@pytest.mark.soak
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_full_size_export(architecture: str, tmp_path: Path) -> None:
    model = randomised(architecture, dim=768)
    source = Source(save_model(model, tmp_path / architecture), model)
    options = CoreMLOptions(shapes="static", batch_sizes=(2,))
    artifact = export_coreml(source, few(source, 8), options)
    (compiled,) = artifact.find("coreml")
    parameters = sum(p.numel() for p in model.parameters())
    assert compiled.file.bytes < 2.1 * parameters + 300_000  # fp16 weights, and the program
    assert compiled.details["exact_difference"] <= 2e-4
    assert compiled.details["largest_difference"] <= 5e-4
    assert compiled.drift <= 1e-4
    assert [f for f in lint_package(artifact.file(compiled)) if f.level is not Level.NOTE] == []


@pytest.mark.parametrize("architecture", ["amn", "lstm", "gru"])
def test_stock_conversion_is_right_and_lights_up(architecture: str, tmp_path: Path) -> None:
    source = small_source(architecture, tmp_path)
    options = CoreMLOptions(shapes="static", batch_sizes=(2,))
    path, drift = export_stock(source, few(source), options, tmp_path / "stock.mlpackage")
    assert drift <= 1e-4
    rules = {f.rule for f in lint_package(path) if f.level is Level.ERROR}
    assert {"lstm": "recurrent", "gru": "control"}.get(architecture) in (*rules, None)
    assert source.artifact.find("coreml") == ()


def test_a_stock_conversion_is_compared_at_every_batch_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, other = (
        small_source("lstm", tmp_path),
        randomised("lstm", dim=DIM, context_length=LENGTH, hidden_dim=32, seed=1),
    )
    options = CoreMLOptions(batch_sizes=(1, 3), precision="fp32")

    def write(model: Any, options: CoreMLOptions, shape: tuple[int, int], path: Path) -> None:
        models = {1: model, 3: other}
        save_functions({n: convert(models[b], options, shape, (b,)) for b, n in options.functions.items()}, path)

    monkeypatch.setattr(stock_module, "write_package", write)
    with pytest.raises(VerificationFailed, match="the stock conversion drifts by"):
        export_stock(source, few(source), options, tmp_path / "stock.mlpackage")
    assert not (tmp_path / "stock.mlpackage").exists()


def test_a_stock_transformer_takes_one_batch_size(tmp_path: Path) -> None:
    source = small_source("transformer", tmp_path)
    with pytest.raises(InvalidInput, match=r"for one batch size, got 1, 8; give one with --batch-sizes"):
        export_stock(source, few(source), CoreMLOptions(batch_sizes=(1, 8)), tmp_path / "stock.mlpackage")
    assert not (tmp_path / "stock.mlpackage").exists()


def test_metadata_says_what_the_package_is(tmp_path: Path) -> None:
    source = small_source("amn", tmp_path)
    artifact = export_coreml(source, few(source), CoreMLOptions(shapes="enumerated", batch_sizes=(1, 2)))
    package = artifact.file(artifact.find("coreml")[0])
    spec = import_coremltools().utils.load_spec(str(package))
    metadata = spec.description.metadata
    assert metadata.author == "lvm_runtime"
    assert "predicts the next vector" in metadata.shortDescription
    assert metadata.userDefined["lvm.weights_sha256"] == artifact.manifest.weights.sha256
    assert json.loads(metadata.userDefined[FUNCTIONS]) == {"1": "main", "2": "main"}
    assert float(metadata.userDefined["lvm.form_difference"]) <= 2e-6
    texts = {f.name: f.shortDescription for f in (*spec.description.input, *spec.description.output)}
    assert set(texts) == {"context", "prediction", "attention"}
    assert "[batch, 3, 64]" in texts["context"]


def test_samples_of_a_real_artifact_are_used(tmp_path: Path) -> None:
    source = small_source("amn", tmp_path)
    artifact = export_coreml(source, make_samples(source), CoreMLOptions(shapes="static", batch_sizes=(8,)))
    assert artifact.find("coreml")[0].details["verified_on"] == 128


BAD_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "shapes": ({"shapes": "range"}, "expected one of multifunction"),
    "precision": ({"precision": "int8"}, "expected one of fp16, fp32"),
    "compress": ({"compress": "zip"}, "expected one of none, palette8"),
    "old target": ({"target": "macOS14"}, "needs --target macOS15 or later, got macOS14; use --shapes enumerated"),
    "no sizes": ({"batch_sizes": ()}, "expected positive integers"),
    "negative size": ({"batch_sizes": (1, -2)}, "expected positive integers"),
    "several static sizes": (
        {"shapes": "static", "batch_sizes": (8, 1)},
        "--shapes static takes one batch size, got 1, 8; give one",
    ),
    "drift": ({"max_drift": 0.0}, "expected a number above 0"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_option_says_what_is_expected(case: str) -> None:
    values, message = BAD_OPTIONS[case]
    with pytest.raises(InvalidInput, match=message):
        CoreMLOptions(**values)


def test_command_line_offers_every_option() -> None:
    arguments = build_parser().parse_args(["--model", "amn", "--batch-sizes", "8,1", "--compress", "palette8"])
    options = options_from(arguments)
    assert options.batch_sizes == (1, 8)
    assert options.name == "fp16-palette8"
    static = build_parser().parse_args(["--model", "amn", "--shapes", "static"])
    assert options_from(static).batch_sizes == (1,)
    assert CoreMLOptions().name == "fp16"
    assert CoreMLOptions().target == "macOS15"
    assert CoreMLOptions(shapes="enumerated").target == "macOS14"
