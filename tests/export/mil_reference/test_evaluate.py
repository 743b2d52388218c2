"""The evaluator as a whole: modes, compressed weights, other people's packages, errors, the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from export.coreml.convert import quiet
from export.coreml.forms.layers import ErfGELU
from export.mil_reference import MODES, OPERATIONS, Arithmetic, Evaluator, UnsupportedOperation, load_program
from export.mil_reference.__main__ import command
from lvm_runtime.commands import console
from lvm_runtime.coreml.package import import_coremltools
from lvm_runtime.errors import ArtifactError, InvalidInput

ct = import_coremltools()
from coremltools.converters.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.mil import types  # noqa: E402


def seeded(module: nn.Module) -> nn.Module:
    """Give every parameter and buffer of a module its own random values."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.1)
    return module.eval()


MLP = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.LayerNorm(16), nn.Linear(16, 8), nn.Softmax(1))
CNN = nn.Sequential(
    nn.Conv2d(3, 8, 3, stride=2, padding=1),
    nn.BatchNorm2d(8),
    nn.LeakyReLU(0.1),
    nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4),
    nn.SiLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(8, 12, 1),
    nn.Hardtanh(-0.7, 0.7),
    nn.AvgPool2d(2),
    nn.Flatten(),
    nn.Linear(24, 5),
)
FOREIGN: dict[str, tuple[nn.Module, tuple[int, ...]]] = {"MLP": (MLP, (4, 6)), "CNN": (CNN, (2, 3, 16, 12))}


@pytest.fixture(scope="module", params=FOREIGN)
def foreign(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module, Any]:
    """A package made by coremltools alone from a plain torch module, with default settings (fp16 inside)."""
    module, shape = FOREIGN[request.param]
    seeded(module)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    path = tmp_path_factory.mktemp("foreign") / f"{request.param}.mlpackage"
    with quiet():
        traced = torch.jit.trace(module, x, check_trace=False)
        inputs, outputs = [ct.TensorType("x", shape)], [ct.TensorType("y")]
        ct.convert(
            traced, inputs=inputs, outputs=outputs, minimum_deployment_target=ct.target.macOS14, skip_model_load=True
        ).save(str(path))
    return path, module, x


@pytest.mark.parametrize(("mode", "tolerance"), [("exact", 2e-3), ("fp16", 4e-3), ("narrow", 8e-3)])
def test_a_package_of_somebody_else_runs(foreign: tuple[Path, nn.Module, Any], mode: str, tolerance: float) -> None:
    path, module, x = foreign
    (answer,) = Evaluator(load_program(path), mode=mode)({"x": x.numpy()}).values()
    with torch.no_grad():
        expected = module(x).numpy()
    np.testing.assert_allclose(answer, expected, rtol=tolerance, atol=tolerance)


def program_of(build: Any, *shapes: tuple[int, ...], dtype: Any = types.fp16) -> Any:
    """Build a program of one input per shape."""
    specs = [mb.TensorSpec(shape=shape, dtype=dtype) for shape in shapes]
    return mb.program(input_specs=specs, opset_version=ct.target.iOS18)(build)


def test_modes_round_as_they_say() -> None:
    program = program_of(lambda x: mb.mul(x=x, y=np.float16(1e-4)), (3,))
    x = np.asarray([1.0, 0.1, 0.333333], np.float32)
    answers = {mode: next(iter(Evaluator(program, mode=mode)({"x": x}).values())) for mode in MODES}
    factor = float(np.float16(1e-4))
    np.testing.assert_array_equal(answers["exact"], x.astype(np.float64) * factor)
    np.testing.assert_array_equal(answers["fp16"], (x.astype(np.float16) * np.float16(1e-4)).astype(np.float64))
    assert answers["fp16"][1] > 0.0  # a subnormal
    assert answers["narrow"][1] == 0.0


def test_narrow_sums_lose_what_wide_ones_keep() -> None:
    program = program_of(lambda x: mb.reduce_sum(x=x, axes=[0]), (4096,))
    x = np.full(4096, 1.0 / 64, np.float32)
    x[0] = 2048.0  # beyond it fp16 counts in twos: each block of 32 adds 0.5, which is lost
    wide, narrow = (next(iter(Evaluator(program, mode=m)({"x": x}).values())) for m in ("fp16", "narrow"))
    assert float(wide) == 2112.0
    assert float(narrow) == 2048.0


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 2), (0, 1, 2)])
def test_narrow_sum_is_a_sum(axes: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).integers(-3, 4, (5, 40, 3)).astype(np.float64)  # exact in fp16
    for keep in (True, False):
        np.testing.assert_array_equal(Arithmetic("narrow").sum(x, axes, keep, "fp16"), x.sum(axis=axes, keepdims=keep))


WEIGHTS = np.random.default_rng(2).standard_normal((6, 8)).astype(np.float32)
PALETTE = np.sort(np.random.default_rng(3).standard_normal(16)).astype(np.float16)
INDICES = np.random.default_rng(4).integers(0, 16, (6, 8)).astype(np.uint8)


def blockwise() -> Any:
    """int8 values with a scale and an offset per block of 3 × 4."""
    data = np.random.default_rng(5).integers(-128, 128, (6, 8)).astype(np.int8)
    offset = np.asarray([[3, -7], [0, 100]], np.int8)
    return mb.constexpr_blockwise_shift_scale(data=data, scale=PALETTE[:4].reshape(2, 2), offset=offset)


def grouped_palettes() -> Any:
    """One palette of 16 values for every three rows."""
    indices = INDICES.astype(types.np_uint4_dtype)
    return mb.constexpr_lut_to_dense(indices=indices, lut=np.stack([PALETTE, -PALETTE]).reshape(2, 1, 16, 1))


def vector_palettes() -> Any:
    """A palette of pairs, laid out along the second axis."""
    indices = INDICES[:, :4].astype(types.np_uint4_dtype)
    return mb.constexpr_lut_to_dense(
        indices=indices, lut=np.concatenate([PALETTE, PALETTE + 1]).reshape(1, 1, 16, 2), vector_axis=1
    )


def sparse() -> Any:
    """Half of the values are zero."""
    mask = (INDICES % 2).astype(types.np_uint1_dtype)
    values = WEIGHTS.astype(np.float16)[INDICES % 2 == 1]
    return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=mask)


@pytest.mark.parametrize("build", [blockwise, grouped_palettes, vector_palettes, sparse], ids=lambda f: f.__name__)
def test_compressed_weights_unpack_as_coremltools_unpacks_them(build: Any) -> None:
    expected: list[Any] = []

    def body(x: Any) -> Any:
        weights = build()
        expected.append(weights.op.materialized_val_inference())
        return mb.add(x=x, y=weights)

    program = program_of(body, (6, 8))
    (answer,) = Evaluator(program)({"x": np.zeros((6, 8), np.float32)}).values()
    np.testing.assert_allclose(answer, expected[0], rtol=1e-3, atol=2e-3)  # coremltools computes them in fp16


def test_unknown_operation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    program = program_of(lambda x: mb.tan(x=mb.sinh(x=x)), (3,))
    with pytest.raises(UnsupportedOperation, match="sinh, tan"):
        Evaluator(program)


def test_wrong_inputs_say_what_the_program_takes() -> None:
    evaluate = Evaluator(program_of(lambda x: mb.relu(x=x), (2, 3)))
    for inputs, message in (
        ({}, "missing input 'x'; got none"),
        ({"x": np.zeros((2, 4))}, r"has shape \(2, 4\), the program takes \(2, 3\)"),
        ({"x": np.zeros((2, 3)), "y": np.zeros(1)}, "unknown input 'y'"),
        ({"x": np.full((2, 3), "a")}, "expected numbers"),
    ):
        with pytest.raises(InvalidInput, match=message):
            evaluate(inputs)
    with pytest.raises(InvalidInput, match="no function 'other'; it has main"):
        Evaluator(program_of(lambda x: mb.relu(x=x), (2, 3)), function="other")
    with pytest.raises(InvalidInput, match="unknown mode 'fast'"):
        Arithmetic("fast")


def test_missing_and_broken_packages_are_one_line_errors(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not there, or not a folder"):
        load_program(tmp_path / "none.mlpackage")
    broken = tmp_path / "broken.mlpackage"
    broken.mkdir()
    with pytest.raises(ArtifactError, match="not a Core ML package"):
        load_program(broken)


def test_command_line(foreign: tuple[Path, nn.Module, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, module, x = foreign
    np.save(tmp_path / "x.npy", x.numpy())
    arguments = [str(path), "--input", str(tmp_path / "x.npy"), "--mode", "fp16", "--output", str(tmp_path / "y.npz")]
    assert command(arguments) == 0
    printed = capsys.readouterr().out
    assert "main: " in printed
    assert "fp16 arithmetic" in printed
    with np.load(tmp_path / "y.npz") as arrays, torch.no_grad():
        (answer,) = arrays.values()
        np.testing.assert_allclose(answer, module(x).numpy(), rtol=4e-3, atol=4e-3)
    np.save(tmp_path / "bad.npy", x.numpy()[:, :1])
    assert console.run(lambda: command([str(path), "--input", str(tmp_path / "bad.npy")])) == 1
    assert "the program takes" in capsys.readouterr().err
    assert console.run(lambda: command([str(path), "--input", str(tmp_path / "none.npy")])) == 1
    assert "expected an .npy or .npz file" in capsys.readouterr().err


def test_every_operation_has_an_evaluator_with_a_docstring() -> None:
    assert len(OPERATIONS) >= 100
    assert ErfGELU()(torch.zeros(1)).item() == 0.0
