"""Native exports: plans that name what they use, views that move nothing, and nothing left behind by a failure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.forms import Form, build_form
from export.native import export as module
from export.native.__main__ import command
from export.native.export import export_native
from export.native.files import FILES
from export.native.plan import PlanOps, build_plan
from export.native.views import Buffer, View, join
from export.source import Source
from export.verify import make_samples
from lvm_runtime.artifact.config import ARCHITECTURES
from lvm_runtime.artifact.drift import DRIFT_LIMITS
from lvm_runtime.errors import InvalidInput, VerificationFailed
from lvm_runtime.models import save_model
from tests.artifacts import randomised, with_epsilon

SIZES: dict[str, dict[str, Any]] = {
    "lstm": {"hidden_dim": 64},
    "gru": {"hidden_dim": 64, "num_layers": 3},
    "transformer": {"hidden_dim": 64, "num_heads": 4, "ffn_dim": 128, "num_layers": 3},
    "amn": {"hidden_dim": 64, "attention_dim": 48, "bottleneck_dim": 32},
}


def make_source(architecture: str, folder: Path, dim: int = 96) -> Source:
    model = randomised(architecture, seed=2, dim=dim, **SIZES[architecture])
    return Source(save_model(model, folder / architecture), model)


@pytest.mark.parametrize(("kind", "precision"), FILES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_plan_names_exactly_what_it_uses(architecture: str, kind: str, precision: str, tmp_path: Path) -> None:
    form = build_form(make_source(architecture, tmp_path).model)
    text, tensors = build_plan(form, PlanOps(form, precision=precision), kind)
    plan = json.loads(text)
    named = {name for operation in plan["operations"] for name in operation["weights"].values()}
    scales = {
        f"{operation['weights']['weight']}_scale" for operation in plan["operations"] if operation["op"] == "linear"
    }
    assert (named | scales if precision == "int8" else named) == set(tensors)
    views = [v for operation in plan["operations"] for v in operation.values() if isinstance(v, list)]
    assert {view[0] for view in views} == set(range(len(plan["buffers"])))
    assert (plan["form"], plan["precision"]) == (kind, precision)
    assert {buffer["per"] for buffer in plan["buffers"]} == ({"window"} if kind == "context" else {"window", "vector"})
    assert ("attention" in plan["outputs"]) == (architecture == "amn")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"context_length": 65},
            "native takes at most 64 vectors of a context, and this model has 65; export",
        ),
        ({"bottleneck_dim": 32769}, "native takes at most 32,768 inputs of a product, and this model has 32,769"),
    ],
    ids=["vectors", "inputs"],
)
def test_a_model_that_the_engine_cannot_run_is_refused(sizes: dict[str, int], message: str, tmp_path: Path) -> None:
    model = randomised("amn", **{"dim": 4, "attention_dim": 4, "hidden_dim": 4, "bottleneck_dim": 4} | sizes)
    source = Source(save_model(model, tmp_path / "amn"), model)
    with pytest.raises(InvalidInput, match=message):
        export_native(source, [])
    assert not (tmp_path / "amn/native").exists()


@pytest.mark.parametrize("kind", ["context", "sequence"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_products_are_made_where_they_are_read(architecture: str, kind: str, tmp_path: Path) -> None:
    form = build_form(make_source(architecture, tmp_path).model)
    operations = json.loads(build_plan(form, PlanOps(form), kind)[0])["operations"]
    for index, operation in enumerate(operations):
        if operation["op"] == "linear":
            made, later = operation["out"][0], operations[index + 1 :]
            reads = [made in [v[0] for role, v in o.items() if isinstance(v, list) and role != "out"] for o in later]
            between = [o["op"] == "linear" for o in later[: reads.index(True)]] if any(reads) else []
            assert between == sorted(between, reverse=True), f"products and rows lie between {operation} and its reader"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_int8_weights_have_neighbours_that_do_not_saturate(architecture: str, tmp_path: Path) -> None:
    form = build_form(make_source(architecture, tmp_path).model)
    _, tensors = build_plan(form, PlanOps(form))
    matrices = [tensor for tensor in tensors.values() if tensor.dtype == np.int8]
    assert matrices
    for matrix in matrices:
        pairs = matrix[: len(matrix) // 2 * 2].astype(int).reshape(-1, 2, matrix.shape[1]).sum(axis=1)
        assert np.abs(pairs).max() <= 128


def test_views_move_nothing() -> None:
    rows = View(Buffer(15), 3, rows=5, step=3)
    flat = rows.reshape((-1, 15))
    assert (flat.rows, flat.width, flat.offset) == (1, 15, 0)
    assert flat.reshape((-1, 5, 3)) == rows
    assert [part.offset for part in flat.split([3] * 5)] == [0, 3, 6, 9, 12]
    left, right = rows.split([1, 2])
    assert (left.rows, left.step, left.width, right.offset) == (5, 3, 1, 1)
    with pytest.raises(ValueError, match="cannot be seen"):
        right.reshape((-1, 10))
    with pytest.raises(ValueError, match="do not make up"):
        flat.split([3, 3])


def test_joined_buffers_lie_in_one() -> None:
    parts = [View(Buffer(4), 4), View(Buffer(2), 2)]
    joined = join(parts)
    assert [part.buffer.root() for part in parts] == [(joined.buffer, 0), (joined.buffer, 4)]
    with pytest.raises(ValueError, match="whole buffers"):
        join(parts)  # they lie in another one already


def test_windows_of_a_document_overlap_in_place() -> None:
    vectors = View(Buffer(8, vectors=True), 8, vectors=True)
    joined = join([vectors.window(t) for t in range(3)])
    assert (joined.buffer, joined.width, joined.rows, joined.vectors) == (vectors.buffer, 24, 1, False)
    with pytest.raises(ValueError, match="in order"):
        join([vectors.window(1), vectors.window(0)])


@pytest.mark.parametrize(("kind", "precision"), FILES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_export_is_verified_and_listed(architecture: str, kind: str, precision: str, tmp_path: Path) -> None:
    pytest.importorskip("lvm_runtime.native._engine", reason="the extension is not built")
    source = make_source(architecture, tmp_path)
    artifact = export_native(source, make_samples(source), kind, precision)
    (compiled,) = artifact.find("native", precision=precision, form=kind)
    assert compiled.file.path == FILES[kind, precision]
    assert 0 <= compiled.drift <= DRIFT_LIMITS[precision]
    assert (compiled.drift > 1e-7) == (precision == "int8")
    assert compiled.details["batch_change"] == 0
    artifact.check()


@pytest.mark.parametrize(("kind", "precision"), FILES)
def test_wrong_export_leaves_no_file(kind: str, precision: str, tmp_path: Path) -> None:
    pytest.importorskip("lvm_runtime.native._engine", reason="the extension is not built")
    source = make_source("gru", tmp_path)
    other = Source(source.artifact, randomised("gru", seed=9, dim=96, **SIZES["gru"]))
    with pytest.raises(VerificationFailed, match="largest drift"):
        export_native(other, make_samples(source), kind, precision)
    assert not (source.artifact.path / "native").exists()


@pytest.mark.parametrize("kind", ["context", "sequence"])
def test_int8_that_is_wrong_where_its_program_is_right_leaves_no_file(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lvm_runtime.native._engine", reason="the extension is not built")
    source, write = make_source("gru", tmp_path), module.write_native
    other = build_form(randomised("gru", seed=9, dim=96, **SIZES["gru"]))

    def wrong(form: Form, path: Path, kind: str, contexts: Any = None, *, precision: str) -> None:
        write(form if precision == "fp32" else other, path, kind, contexts, precision=precision)

    monkeypatch.setattr(module, "write_native", wrong)
    with pytest.raises(VerificationFailed, match="int8: largest drift"):
        export_native(source, make_samples(source), kind, "int8")
    assert not (source.artifact.path / "native").exists()


@pytest.mark.parametrize("kind", ["context", "sequence"])
def test_int8_of_a_program_that_is_a_little_wrong_leaves_no_file(kind: str, tmp_path: Path) -> None:
    """Rounding to int8 moves a prediction 10,000 times as far as this epsilon does."""
    pytest.importorskip("lvm_runtime.native._engine", reason="the extension is not built")
    source = make_source("gru", tmp_path)
    samples = make_samples(source)
    with pytest.raises(VerificationFailed, match="fp32: median drift"):
        export_native(with_epsilon(source, 1.1e-5), samples, kind, "int8")
    assert not (source.artifact.path / "native").exists()
    export_native(source, samples, kind, "int8")


def test_command_writes_what_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lvm_runtime.native._engine", reason="the extension is not built")
    source = make_source("amn", tmp_path)
    model = ["--model", str(source.artifact.path)]
    for arguments, files in (
        (["--precision", "fp32", "--no-sequence"], {FILES["context", "fp32"]}),
        (["--precision", "int8"], {FILES["context", "fp32"], FILES["context", "int8"], FILES["sequence", "int8"]}),
        ([], set(FILES.values())),
    ):
        assert command(model + arguments) == 0
        assert {f"native/{path.name}" for path in (source.artifact.path / "native").iterdir()} == files
    assert capsys.readouterr().out.count("drift") == 1 + 2 + 4
