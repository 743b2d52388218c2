"""ONNX exports: clean graphs, batch-invariant int8, sequence form, and nothing left behind by a failure."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from export.forms import Form, build_form
from export.forms.rounding import quantise_weight
from export.onnx import export as module
from export.onnx.__main__ import command
from export.onnx.export import export_onnx, export_sequence, write_graph
from export.onnx.plain import export_plain
from export.source import Source
from export.verify import Sample, make_samples
from lvm_runtime.artifact.config import ARCHITECTURES
from lvm_runtime.artifact.drift import BATCH_INVARIANCE_LIMIT, DRIFT_LIMITS, FP32_ABSOLUTE_LIMIT, max_drift
from lvm_runtime.artifact.fingerprint import random_contexts
from lvm_runtime.errors import VerificationFailed
from lvm_runtime.models import known_answers, save_model
from tests.artifacts import randomised, with_epsilon

SIZES: dict[str, dict[str, Any]] = {
    "lstm": {"dim": 96, "hidden_dim": 64},
    "gru": {"dim": 96, "hidden_dim": 64, "num_layers": 3},
    "transformer": {"dim": 96, "hidden_dim": 64, "num_heads": 4, "ffn_dim": 128, "num_layers": 3},
    "amn": {"dim": 96, "hidden_dim": 64, "attention_dim": 48, "bottleneck_dim": 32},
}
FILES = [("fp32", "context"), ("int8", "context"), ("fp32", "sequence")]
LEFTOVERS = {"Shape", "Gather", "Expand", "ConstantOfShape", "Loop", "Scan", "If", "Identity", "Cast", "Unsqueeze"}


def make_source(architecture: str, folder: Path, **changes: Any) -> Source:
    model = randomised(architecture, seed=2, **SIZES[architecture] | changes)
    return Source(save_model(model, folder / architecture), model)


def write(architecture: str, precision: str, kind: str, folder: Path) -> tuple[Any, Path]:
    model = randomised(architecture, seed=2, **SIZES[architecture])
    path = folder / f"{architecture}.onnx"
    write_graph(build_form(model), path, precision, kind)
    return model, path


def open_session(path: Path, threads: int = 1) -> ort.InferenceSession:
    """Open with warnings as errors: onnxruntime prints them, and this runs where a warning would be seen."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 2
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(("precision", "kind"), FILES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_graph_is_clean(
    architecture: str, precision: str, kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, path = write(architecture, precision, kind, tmp_path)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    used = {name for node in model.graph.node for name in node.input}
    made = {name for node in model.graph.node for name in node.output}
    read = used | {output.name for output in model.graph.output}
    assert not LEFTOVERS & {node.op_type for node in model.graph.node}
    assert {tensor.name for tensor in model.graph.initializer} <= used
    assert all(any(name in read for name in node.output) for node in model.graph.node)
    assert len(made) == sum(len(node.output) for node in model.graph.node)
    assert [i.name for i in model.graph.input] == ["context" if kind == "context" else "vectors"]
    attention = ["attention"] if architecture == "amn" else []
    assert [o.name for o in model.graph.output] == ["prediction", *attention]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert {o.domain: o.version for o in model.opset_import} == {"": 21, "com.microsoft": 1}
    assert (model.ir_version, model.producer_name) == (10, "lvm_runtime")
    assert {p.key: p.value for p in model.metadata_props}["architecture"] == architecture
    open_session(path)
    captured = capfd.readouterr()
    assert not re.search(r"\[W:|\[E:", captured.out + captured.err)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fp32_file_gives_the_known_answers(architecture: str, tmp_path: Path) -> None:
    model, path = write(architecture, "fp32", "context", tmp_path)
    contexts = random_contexts(9, 5, 96)
    expected, attention = known_answers(model, contexts)
    outputs = open_session(path).run(None, {"context": contexts})
    assert np.abs(outputs[0] - expected).max() <= FP32_ABSOLUTE_LIMIT
    if attention is not None:
        assert np.abs(outputs[1] - attention).max() <= FP32_ABSOLUTE_LIMIT


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_int8_products_are_int8(architecture: str, tmp_path: Path) -> None:
    _, path = write(architecture, "int8", "context", tmp_path)
    graph = onnx.load(path).graph
    matrices = [t for t in graph.initializer if len(t.dims) == 2 and min(t.dims) > 1]
    assert matrices
    assert {t.data_type for t in matrices} == {onnx.TensorProto.INT8}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_row_does_not_depend_on_its_batch(architecture: str, precision: str, threads: int, tmp_path: Path) -> None:
    _, path = write(architecture, precision, "context", tmp_path)
    session = open_session(path, threads)
    rows = random_contexts(4, 5, 96)
    for size in (1, 2, 7, 32, 128):
        large = random_contexts(size, 5, 96, seed=8) * np.float32(100)
        for row in rows:
            alone = session.run(["prediction"], {"context": row[None]})[0][0]
            for place in (0, size // 2, size - 1):
                batch = large.copy()
                batch[place] = row
                among = session.run(["prediction"], {"context": batch})[0][place]
                assert np.abs(among - alone).max() <= BATCH_INVARIANCE_LIMIT


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_int8_drift_stays_within_its_limits(architecture: str, tmp_path: Path) -> None:
    source = make_source(architecture, tmp_path)
    artifact = export_onnx(source, make_samples(source), "int8")
    (compiled,) = artifact.find("onnx", precision="int8")
    assert 0 < compiled.drift <= DRIFT_LIMITS["int8"]
    assert compiled.drift >= compiled.details["median_drift"] > 0
    assert artifact.file(compiled).stat().st_size < 0.4 * artifact.manifest.weights.bytes


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_zero_context_gives_a_finite_int8_answer(architecture: str, tmp_path: Path) -> None:
    model, path = write(architecture, "int8", "context", tmp_path)
    contexts = random_contexts(3, 5, 96)
    contexts[1] = 0.0
    contexts[2, 3] = 0.0
    predictions = open_session(path).run(["prediction"], {"context": contexts})[0]
    assert max_drift(predictions, known_answers(model, contexts)[0]) <= DRIFT_LIMITS["int8"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sequence_file_equals_the_windows(architecture: str, tmp_path: Path) -> None:
    model, path = write(architecture, "fp32", "sequence", tmp_path)
    vectors = random_contexts(4, 5, 96).reshape(20, 96)
    windows = np.lib.stride_tricks.sliding_window_view(vectors, 5, axis=0).swapaxes(1, 2)
    predictions = open_session(path).run(["prediction"], {"vectors": vectors})[0]
    assert np.abs(predictions - known_answers(model, windows)[0]).max() <= 1e-6
    assert open_session(path).run(["prediction"], {"vectors": vectors[:5]})[0].shape == (1, 96)


def test_sequence_export_is_listed_as_one(tmp_path: Path) -> None:
    source = make_source("gru", tmp_path)
    artifact = export_sequence(source, make_samples(source))
    (compiled,) = artifact.find("onnx", form="sequence")
    assert compiled.file.path == "onnx/sequence-fp32.onnx"
    assert not artifact.find("onnx")


@pytest.mark.parametrize(("precision", "kind"), FILES)
def test_wrong_export_leaves_no_file(precision: str, kind: str, tmp_path: Path) -> None:
    source = make_source("gru", tmp_path)
    with_other_weights = Source(source.artifact, randomised("gru", seed=9, **SIZES["gru"]))
    export = export_sequence if kind == "sequence" else partial(export_onnx, precision=precision)
    with pytest.raises(VerificationFailed, match="largest drift"):
        export(with_other_weights, make_samples(source))
    assert not list(source.artifact.path.rglob("*.onnx"))
    assert not (source.artifact.path / "onnx").exists()


def test_int8_of_a_program_that_is_a_little_wrong_leaves_no_file(tmp_path: Path) -> None:
    source = make_source("gru", tmp_path)
    with pytest.raises(VerificationFailed, match="onnx fp32: median drift"):
        export_onnx(with_epsilon(source, 1.1e-5), make_samples(source), "int8")
    assert not (source.artifact.path / "onnx").exists()


def test_int8_that_is_wrong_where_its_program_is_right_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, write = make_source("gru", tmp_path), module.write_graph
    other = build_form(randomised("gru", seed=9, **SIZES["gru"]))

    def wrong(form: Form, path: Path, precision: str, kind: str = "context", contexts: Any = None) -> None:
        write(form if precision == "fp32" else other, path, precision, kind, contexts)

    monkeypatch.setattr(module, "write_graph", wrong)
    with pytest.raises(VerificationFailed, match="onnx int8: largest drift"):
        export_onnx(source, make_samples(source), "int8")
    assert not (source.artifact.path / "onnx").exists()


def test_wrong_attention_is_refused(tmp_path: Path) -> None:
    source = make_source("amn", tmp_path)
    (sample,) = make_samples(source)
    assert sample.attention is not None
    wrong = Sample(sample.name, sample.contexts, sample.predictions, sample.attention[:, ::-1])
    with pytest.raises(VerificationFailed, match="attention"):
        export_onnx(source, [wrong], "fp32")


def test_plain_export_computes_the_same(tmp_path: Path) -> None:
    model = randomised("amn", seed=2, **SIZES["amn"])
    export_plain(model, tmp_path / "plain.onnx")
    contexts = random_contexts(3, 5, 96)
    predictions = open_session(tmp_path / "plain.onnx").run(["prediction"], {"context": contexts})[0]
    assert np.abs(predictions - known_answers(model, contexts)[0]).max() <= FP32_ABSOLUTE_LIMIT


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("inner", [8, 62, 512])
def test_integer_products_do_not_saturate_on_this_cpu(inner: int, rows: int, tmp_path: Path) -> None:
    """The largest activations on the largest weights: x86 without VNNI adds two products in 16 bits."""
    rng = np.random.default_rng(inner)
    weight = np.sign(rng.standard_normal((inner, 48))) * rng.uniform(0.9, 1, (inner, 48))
    weight[:, 7] = 1.0
    values, _ = quantise_weight(weight)
    x = rng.choice([0, 255], size=(rows, inner)).astype(np.uint8)
    x[0] = 255
    product = onnx.helper.make_node(
        "MatMulIntegerToFloat", ["x", "w", "one", "ones", "zero"], ["y"], domain="com.microsoft"
    )
    constants = {"w": values, "one": np.float32(1), "ones": np.ones(48, np.float32), "zero": np.uint8(128)}
    graph = onnx.helper.make_graph(
        [product],
        "product",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, ["rows", inner])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["rows", 48])],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "product.onnx")
    found = open_session(tmp_path / "product.onnx").run(None, {"x": x})[0]
    np.testing.assert_array_equal(found, (x.astype(int) - 128) @ values.astype(int))


@pytest.mark.parametrize("architecture", ["gru", "transformer", "amn"])
def test_centres_change_the_drift_and_not_the_function(architecture: str, tmp_path: Path) -> None:
    model = randomised(architecture, seed=2, **SIZES[architecture])
    contexts = random_contexts(64, 5, 96)
    answers = known_answers(model, contexts)[0]
    drifts = []
    for scale in (1.0, -1.0, 0.0):  # like those to come, their mirror image, and nothing at all
        write_graph(build_form(model), tmp_path / "int8.onnx", "int8", contexts=scale * contexts)
        predictions = open_session(tmp_path / "int8.onnx").run(["prediction"], {"context": contexts})[0]
        drifts.append(max_drift(predictions, answers))
    assert max(drifts) <= DRIFT_LIMITS["int8"]
    assert drifts[0] < min(drifts[1:])


def test_command_writes_all_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_source("amn", tmp_path)
    assert command(["--model", str(source.artifact.path)]) == 0
    assert {p.name for p in (source.artifact.path / "onnx").iterdir()} == {
        "fp32.onnx",
        "int8.onnx",
        "sequence-fp32.onnx",
    }
    assert capsys.readouterr().out.count("drift") == 3
