"""The lint: each rule fires on a program that breaks it and stays silent on its cure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from export.ane_lint import Finding, Level, lint_package, report
from export.ane_lint.__main__ import command
from export.ane_lint.rules import OPERATION_RULES
from export.coreml.convert import quiet
from lvm_runtime.coreml.package import import_coremltools

ct = import_coremltools()
from coremltools.converters.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.mil import types  # noqa: E402

SHAPE = (2, 8, 1, 5)
HALF = np.float16
LIST = np.asarray([1, 0], np.int32)


def findings_of(build: Callable[[Any], Any], dtype: Any = types.fp16, shape: tuple[int, ...] = SHAPE) -> list[Finding]:
    """Build a program of one input and apply the rules to its operations."""
    specs = [mb.TensorSpec(shape=shape, dtype=dtype)]
    program = mb.program(input_specs=specs, opset_version=ct.target.iOS17)(build)
    found = (
        rule(op) for op in program.functions["main"].operations if op.op_type != "const" for rule in OPERATION_RULES
    )
    return [finding for finding in found if finding is not None]


Case = tuple[str, Level, Callable[[Any], Any]]
BREAKING: dict[str, Case] = {
    "gather": ("gather", Level.ERROR, lambda x: mb.gather(x=x, indices=LIST, axis=1)),
    "shape": ("dynamic", Level.ERROR, lambda x: mb.shape(x=x)),
    "tile": ("awkward", Level.WARNING, lambda x: mb.tile(x=x, reps=[1, 1, 1, 2])),
    "fp32": ("fp32", Level.ERROR, lambda x: mb.cast(x=x, dtype="fp32")),
    "integers": ("integers", Level.WARNING, lambda x: mb.cast(x=x, dtype="int32")),
    "infinite bound": ("bound", Level.WARNING, lambda x: mb.clip(x=x, alpha=HALF(0.1), beta=HALF("inf"))),
    "infinite mask": ("infinity", Level.WARNING, lambda x: mb.add(x=x, y=np.full(5, -np.inf, HALF))),
    "small epsilon": ("epsilon", Level.WARNING, lambda x: mb.maximum(x=x, y=HALF(6e-8))),
    "last-axis slice": (
        "slice",
        Level.WARNING,
        lambda x: mb.slice_by_index(x=x, begin=[0, 0, 0, 4], end=[2, 8, 1, 5]),
    ),
    "rank 5": ("rank", Level.WARNING, lambda x: mb.expand_dims(x=x, axes=[0])),
    "gelu": ("gelu", Level.NOTE, lambda x: mb.gelu(x=x)),
    "linear": ("linear", Level.NOTE, lambda x: mb.linear(x=x, weight=np.ones((3, 5), HALF))),
    "unknown": ("unknown", Level.NOTE, lambda x: mb.atan(x=x)),
    "loop": (
        "control",
        Level.ERROR,
        lambda x: mb.while_loop(
            _cond=lambda i, a: mb.less(x=i, y=3),
            _body=lambda i, a: (mb.add(x=i, y=1), mb.mul(x=a, y=HALF(2))),
            loop_vars=(0, x),
        )[1],
    ),
}


@pytest.mark.parametrize("case", BREAKING)
def test_rule_fires(case: str) -> None:
    rule, level, build = BREAKING[case]
    matching = [finding for finding in findings_of(build) if finding.rule == rule]
    assert [finding.level for finding in matching] == [level]
    assert matching[0].why
    assert matching[0].remedy


CLEAN: dict[str, Callable[[Any], Any]] = {
    "split": lambda x: mb.split(x=x, split_sizes=[4, 1], axis=3)[1],
    "first-axis slice": lambda x: mb.slice_by_index(x=x, begin=[1, 0, 0, 0], end=[2, 8, 1, 5]),
    "finite mask": lambda x: mb.add(x=x, y=np.full(5, -3e4, HALF)),
    "large epsilon": lambda x: mb.maximum(x=x, y=HALF(2.0**-14)),
    "conv": lambda x: mb.conv(x=x, weight=np.ones((3, 8, 1, 1), HALF)),
    "norm": lambda x: mb.layer_norm(x=x, axes=[1]),
}


@pytest.mark.parametrize("case", CLEAN)
def test_cure_is_clean(case: str) -> None:
    assert findings_of(CLEAN[case]) == []


def converted(path: Path, shape: Any, **options: Any) -> Path:
    """Convert a small torch module with the input `shape`."""
    with quiet():
        traced = torch.jit.trace(nn.Sequential(nn.ReLU(), nn.Sigmoid()), torch.zeros(2, 4), check_trace=False)
        model = ct.convert(
            traced,
            inputs=[ct.TensorType("x", shape, **options)],
            outputs=[ct.TensorType("y", **options)],
            minimum_deployment_target=ct.target.macOS14,
            skip_model_load=True,
        )
        model.save(str(path))
    return path


def test_flexible_and_fp32_inputs(tmp_path: Path) -> None:
    ranged = converted(tmp_path / "range.mlpackage", (ct.RangeDim(1, 8), 4), dtype=np.float32)
    levels = {finding.rule: finding.level for finding in lint_package(ranged)}
    assert levels["range"] is Level.ERROR
    assert levels["input"] is Level.NOTE
    listed = converted(tmp_path / "listed.mlpackage", ct.EnumeratedShapes([(1, 4), (2, 4)]), dtype=HALF)
    levels = {finding.rule: finding.level for finding in lint_package(listed)}
    assert levels["enumerated"] is Level.NOTE
    assert "input" not in levels


def test_one_of_a_kind_is_counted_as_one() -> None:
    note = Finding(Level.NOTE, "gelu", "gelu x", "why", "do this")
    assert report(Path("p"), [note]).endswith("p: 0 errors, 0 warnings, 1 note")


def test_command_prints_counts_and_fails_on_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = converted(tmp_path / "range.mlpackage", (ct.RangeDim(1, 8), 4), dtype=np.float32)
    assert command([str(path)]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("error")
    assert "errors" in printed.splitlines()[-1]
    fixed = converted(tmp_path / "fixed.mlpackage", (2, 4), dtype=HALF)
    assert command([str(fixed)]) == 0
    assert capsys.readouterr().out == f"{fixed}: 0 errors, 0 warnings, 0 notes\n" == report(fixed, []) + "\n"
