"""Vectors as long as they may be, in every form, and those that are longer."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from export.forms import build_form
from export.native.export import write_native
from export.onnx.export import write_graph
from export.torchscript import trace_form
from lvm_runtime import InvalidInput, Predictor
from lvm_runtime.artifact.config import ARCHITECTURES, CONFIGS, make_config
from lvm_runtime.artifact.drift import ATTENTION_LIMITS, DRIFT_LIMITS, largest_difference, max_drift
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends import backend_class
from lvm_runtime.bulk.predict import predict_file
from lvm_runtime.models import build_model, known_answers, load_model, save_model
from lvm_runtime.predictor import MOST_AT_ONCE
from tests.artifacts import add_onnx, edit_manifest, randomised, some_contexts
from tests.conftest import AVAILABLE

Get = Callable[[str], Path]
FORMS = [("onnx", "fp32"), ("onnx", "int8"), ("openvino", "fp32"), ("openvino", "bf16"), ("torchscript", "fp32")]
FORMS += [("eager", "fp32")]


@pytest.fixture(scope="module")
def with_int8(small_artifacts: Get, tmp_path_factory: pytest.TempPathFactory) -> Get:
    """Return a function from an architecture to a copy of its small artifact with an int8 form."""
    made: dict[str, Path] = {}

    def get(architecture: str) -> Path:
        if architecture not in made:
            path = tmp_path_factory.mktemp("forms") / architecture
            shutil.copytree(small_artifacts(architecture), path)
            artifact = Artifact.load(path)
            add_onnx(artifact, load_model(artifact), "onnx/int8.onnx", precision="int8", drift=5e-4)
            made[architecture] = path
        return made[architecture]

    return get


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("backend", "precision"), FORMS, ids="-".join)
def test_up_to_the_bound_every_row_has_norm_1(with_int8: Get, architecture: str, backend: str, precision: str) -> None:
    if precision == "bf16" and not AVAILABLE["bf16"]():
        pytest.skip("this CPU has no bf16")
    with Predictor(with_int8(architecture), backend=backend, precision=precision, threads=1) as predictor:
        largest = predictor.largest_norm
        directions = some_contexts(6)
        directions /= np.linalg.norm(directions.astype(np.float64), axis=2, keepdims=True).astype(np.float32)
        at_bound = directions * np.float32(0.999999 * largest)
        one_component = np.zeros((2, 5, 16), np.float32)
        one_component[:, :, 3] = [[largest] * 5, [0, 0, 0, 0, -largest]]
        mixed = directions.copy()
        mixed[:, 4] = at_bound[:, 4]
        for contexts in (at_bound, one_component, mixed):
            for found in (predictor.predict(contexts), predictor.predict_sequence(contexts.reshape(-1, 16))):
                norms = np.linalg.norm(found.astype(np.float64), axis=1)
                np.testing.assert_allclose(norms, 1, rtol=0, atol=1e-2 if precision == "bf16" else 1e-5)
        for tiny in (np.zeros((2, 5, 16), np.float32), directions * np.float32(1e-30)):
            found = predictor.predict(tiny)
            assert np.isfinite(found).all()
            assert (np.linalg.norm(found.astype(np.float64), axis=1) <= 1 + 1e-2).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("backend", [backend for backend, precision in FORMS if precision == "fp32"])
def test_up_to_the_bound_answers_are_those_of_the_training_form(
    small_artifacts: Get, architecture: str, backend: str
) -> None:
    """A mask that is added to scores may be too small for large ones, and the answers then have norm 1 all the same."""
    model = load_model(Artifact.load(small_artifacts(architecture)))
    contexts = some_contexts(32)
    contexts /= np.linalg.norm(contexts, axis=2, keepdims=True)
    with Predictor(small_artifacts(architecture), backend=backend, precision="fp32", threads=1) as predictor:
        for norm in (1e2, 1e3, 1e4, 1e5, 0.999 * predictor.largest_norm):
            long = contexts * np.float32(norm)
            np.testing.assert_allclose(predictor.predict(long), known_answers(model, long)[0], rtol=0, atol=1e-3)


def test_up_to_the_bound_bf16_is_the_same_model(tmp_path: Path) -> None:
    """At the width of a small encoder. Of the architectures, the Transformer's attention suffers most."""
    if not AVAILABLE["bf16"]():
        pytest.skip("this CPU has no bf16")
    model = build_model(make_config("transformer", dim=384), seed=0).eval()
    write_graph(build_form(model), tmp_path / "fp32.onnx", "fp32")
    backend = backend_class("openvino")(tmp_path / "fp32.onnx", precision="bf16", threads=1)
    contexts = some_contexts(16, 384)
    contexts /= np.linalg.norm(contexts, axis=2, keepdims=True)

    def drift_at(norm: float) -> float:
        long = contexts * np.float32(norm)
        return max_drift(backend.run(long), known_answers(model, long)[0])

    assert drift_at(backend.largest_norm) <= DRIFT_LIMITS["bf16"]
    assert drift_at(1e4) > 10 * DRIFT_LIMITS["bf16"]  # so a bound is needed
    backend.close()


def test_up_to_the_bound_attention_in_bf16_is_right(tmp_path: Path) -> None:
    """Predictions of the AMN hardly change with longer vectors, while its attention does."""
    if not AVAILABLE["bf16"]():
        pytest.skip("this CPU has no bf16")
    model = randomised("amn", seed=1, dim=384)
    save_model(model, tmp_path / "amn")
    add_onnx(Artifact.load(tmp_path / "amn"), model)
    contexts = some_contexts(64, 384)
    contexts /= np.linalg.norm(contexts, axis=2, keepdims=True)

    def off_at(norm: float) -> float:
        long = contexts * np.float32(norm)
        _, attention = known_answers(model, long)
        assert attention is not None
        return largest_difference(predictor.predict(long, return_attention=True)[1], attention)

    with Predictor(tmp_path / "amn", backend="openvino", precision="bf16", threads=1) as predictor:
        assert off_at(0.999 * predictor.largest_norm) <= ATTENTION_LIMITS["bf16"]
        with pytest.raises(InvalidInput, match="expected at most 64"):
            off_at(65)


@pytest.mark.parametrize("backend", ["native", "onnx", "openvino", "torchscript"])
def test_what_has_nearly_no_length_is_as_short_as_in_the_training_form(tmp_path: Path, backend: str) -> None:
    """PyTorch divides by 1e-12 what is shorter. A fresh AMN predicts the average of its context."""
    model = build_model(make_config("amn", **CONFIGS["amn"].small), seed=0).eval()
    form, path = build_form(model), tmp_path / "form"
    if backend == "native":
        pytest.importorskip("lvm_runtime.native._engine", reason="the extension is not built")
        write_native(form, path, precision="fp32")
    elif backend == "torchscript":
        trace_form(form, path)
    else:
        write_graph(form, path, "fp32")
    runner = backend_class(backend)(path, device="cpu", precision="fp32")
    for norm in (1e-11, 1e-12, 1e-13, 1e-16):
        short = some_contexts(4) * np.float32(norm)
        np.testing.assert_allclose(runner.run(short), known_answers(model, short)[0], rtol=0, atol=1e-6)
    runner.close()


def test_a_form_serves_vectors_up_to_the_norm_that_was_measured(with_int8: Get, tmp_path: Path) -> None:
    """int8 drifts more with longer vectors; a form that says nothing of them has the bound of fp16."""
    shutil.copytree(with_int8("transformer"), tmp_path / "t")
    with Predictor(tmp_path / "t", precision="int8", backend="onnx") as predictor:
        assert predictor.largest_norm == 200
    edit_manifest(tmp_path / "t", lambda manifest: [c.update(largest_norm=3.0) for c in manifest["compiled"]])
    contexts = some_contexts(4)
    contexts *= 2.99 / np.linalg.norm(contexts, axis=2, keepdims=True)
    with Predictor(tmp_path / "t", precision="int8", backend="onnx") as predictor:
        assert predictor.largest_norm == 3
        predictor.predict(contexts)
        contexts[2, 3] *= 2
        with pytest.raises(InvalidInput, match=r"row 2, position 3 has norm 5\.98; expected at most 3"):
            predictor.predict(contexts)
        with pytest.raises(InvalidInput, match="expected at most 3"):
            predictor.predict_sequence(contexts.reshape(-1, 16))


@pytest.mark.parametrize("norm", [1.000001e6, 1e20, 1e37])
def test_vectors_that_are_too_long_are_refused_with_their_row(small_artifacts: Get, norm: float) -> None:
    contexts = some_contexts(MOST_AT_ONCE + 9)
    contexts[MOST_AT_ONCE + 3, 2] *= np.float32(norm) / np.linalg.norm(contexts[MOST_AT_ONCE + 3, 2])
    with Predictor(small_artifacts("amn")) as predictor:
        for call, value, where in (
            (predictor.predict, contexts, rf"row {MOST_AT_ONCE + 3}, position 2 has norm"),
            (predictor.predict, contexts[MOST_AT_ONCE + 3], r"row 0, position 2 has norm"),
            (predictor.predict_sequence, contexts[MOST_AT_ONCE:].reshape(-1, 16), r"row 17 has norm"),
        ):
            with pytest.raises(InvalidInput, match=where + r".* expected at most 1e\+06"):
                call(value)


@pytest.mark.parametrize("kind", ["contexts", "vectors"])
def test_a_vector_that_is_too_long_is_a_bad_row_of_a_file(small_artifacts: Get, tmp_path: Path, kind: str) -> None:
    values = some_contexts(300) if kind == "contexts" else some_contexts(1, length=304)[0]
    values[280] *= np.float32(1e20)
    np.save(tmp_path / "in.npy", values)
    with Predictor(small_artifacts("amn")) as predictor:
        with pytest.raises(InvalidInput, match=r"row 280.* has norm .*expected at most 1e\+06; give --skip-bad"):
            predict_file(predictor, tmp_path / "in.npy", tmp_path / "out.npy", progress=False)
        result = predict_file(predictor, tmp_path / "in.npy", tmp_path / "out.npy", skip_bad=True, progress=False)
    bad = np.flatnonzero(np.isnan(np.load(tmp_path / "out.npy")).any(axis=1))
    assert bad.tolist() == ([280] if kind == "contexts" else [276, 277, 278, 279, 280])
    assert result.bad == len(bad)


@pytest.mark.parametrize("backend", ["native", "onnx", "eager"])
def test_a_model_of_unit_vectors_takes_no_others(with_int8: Get, backend: str, tmp_path: Path) -> None:
    """Trained with --normalize, a GRU that reached 0.46 was at 0.36 on the very corpus, as it is in its file."""
    path = Path(shutil.copytree(with_int8("gru"), tmp_path / "gru"))
    edit_manifest(path, lambda body: body["provenance"].update(training={"options": {"normalize": True}}))
    contexts = some_contexts(4)
    document = contexts.reshape(-1, 16)
    if backend == "native":
        artifact = Artifact.load(path)
        with artifact.adding("native/fp32.safetensors") as file:
            write_native(build_form(load_model(artifact)), file, precision="fp32")
            artifact.commit(file, "native/fp32.safetensors", format="native", precision="fp32", drift=1e-12)
    with Predictor(path, backend=backend, threads=1) as predictor:
        for call, given in ((predictor.predict, contexts), (predictor.predict_sequence, document)):
            assert np.isfinite(call(given.astype(np.float16))).all()
            for scale in (3, 0.5, 0):
                with pytest.raises(InvalidInput, match=rf"has norm {scale}; expected 1: the model was trained"):
                    call(np.float32(scale) * given)
            lone = given.copy()
            lone.reshape(-1, 16)[7] *= 0.5
            with pytest.raises(InvalidInput, match=r"has norm 0.5; expected 1"):
                call(lone)
