"""Documents, rollouts and streams give what single predictions give."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.forms import build_form
from export.onnx.export import write_graph
from lvm_runtime import InvalidInput, Predictor
from lvm_runtime.artifact.config import ARCHITECTURES
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends.base import Array
from lvm_runtime.backends.onnx import OnnxBackend
from lvm_runtime.predictor import MOST_AT_ONCE
from lvm_runtime.request import Request
from lvm_runtime.selection.choice import open_session
from lvm_runtime.selection.sequences import SequenceRunner, window
from tests.artifacts import add_onnx, edit_manifest, flip, randomised, some_contexts

Get = Callable[[str], Path]


def _document(count: int) -> Any:
    return some_contexts(1, length=count)[0]


def _windows(vectors: Any) -> Any:
    return np.stack([vectors[i : i + 5] for i in range(len(vectors) - 4)])


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Return the forms that onnxruntime opens, in their order, each with its options; none may be opened twice."""
    build, forms = OnnxBackend.__init__, {}

    def note(backend: OnnxBackend, source: Path, **options: Any) -> None:
        assert source.name not in forms
        forms[source.name] = options
        build(backend, source, **options)

    monkeypatch.setattr(OnnxBackend, "__init__", note)
    return forms


@pytest.mark.parametrize("backend", ["onnx", "eager"], ids=["sequence form", "windows"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("count", [5, 6, 40, MOST_AT_ONCE + 4, MOST_AT_ONCE + 5, 2 * MOST_AT_ONCE + 9])
def test_a_document_is_all_its_windows(
    small_artifacts: Get, architecture: str, backend: str, count: int, opened: dict[str, Any]
) -> None:
    vectors = _document(count)
    with Predictor(small_artifacts(architecture), backend=backend) as predictor:
        found = predictor.predict_sequence(vectors)
        np.testing.assert_allclose(found, predictor.predict(_windows(vectors)), rtol=0, atol=2e-6)
    assert list(opened) == (["fp32.onnx", "sequence-fp32.onnx"] if backend == "onnx" else [])


@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_document_that_is_too_short_has_no_windows(small_artifacts: Get, count: int) -> None:
    with Predictor(small_artifacts("amn")) as predictor:
        assert predictor.predict_sequence(np.zeros((count, 16), np.float32)).shape == (0, 16)


def test_documents_of_every_kind(small_artifacts: Get) -> None:
    vectors = _document(9)
    with Predictor(small_artifacts("amn")) as predictor:
        expected = predictor.predict_sequence(vectors)
        tensor = predictor.predict_sequence(torch.from_numpy(vectors))
        assert isinstance(tensor, torch.Tensor)
        np.testing.assert_array_equal(tensor.numpy(), expected)
        np.testing.assert_allclose(predictor.predict_sequence(vectors.tolist()), expected, rtol=0, atol=1e-6)
        out = np.empty_like(expected)
        assert predictor.predict_sequence(vectors, out=out) is out
        np.testing.assert_array_equal(out, expected)


def test_a_bad_vector_is_named_by_its_number(small_artifacts: Get) -> None:
    vectors = _document(2 * MOST_AT_ONCE)
    vectors[MOST_AT_ONCE + 7, 3] = np.inf
    with Predictor(small_artifacts("amn")) as predictor:
        with pytest.raises(InvalidInput, match=f"row {MOST_AT_ONCE + 7}, component 3 is inf"):
            predictor.predict_sequence(vectors)
        for shape in ((9, 5, 16), (9, 15)):
            with pytest.raises(InvalidInput, match=r"vectors have shape \[9, (5, 16|15)\], expected \[N, 16\]"):
                predictor.predict_sequence(np.zeros(shape, np.float32))


@pytest.mark.parametrize("off", [1e-5, 1.0], ids=["a little", "much"])
def test_a_sequence_form_that_disagrees_is_not_used_and_says_so(
    off: float, small_artifacts: Get, tmp_path: Path, opened: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once: it is released, and not tried again."""
    path = Path(shutil.copytree(small_artifacts("gru"), tmp_path / "gru"))
    model = randomised("gru")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + off)
    add_onnx(Artifact.load(path), model, "onnx/sequence-fp32.onnx", kind="sequence")
    vectors, released = _document(9), []
    monkeypatch.setattr(OnnxBackend, "close", lambda backend: released.append(backend))
    with Predictor(path) as predictor:
        with pytest.warns(UserWarning, match="window by window.*sequence-fp32.onnx"):
            found = predictor.predict_sequence(vectors)
        assert len(released) == 1
        expected = predictor.predict(_windows(vectors))
        for answer in (found, predictor.predict_sequence(vectors)):
            np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-6)
        refusal = predictor.explain().refused[-1]
    assert list(opened) == ["fp32.onnx", "sequence-fp32.onnx"]
    assert refusal.what == "onnx fp32 sequence (onnx/sequence-fp32.onnx)"
    assert "its largest difference to single windows is" in refusal.why


def _every_fifth(answers: Array) -> Array:
    return answers[np.arange(len(answers)) // 5 * 5]


def _turned_where_alone(answers: Array) -> Array:
    return -answers if len(answers) == 1 else answers


@pytest.mark.parametrize(("wrong", "rows"), [(_every_fifth, 9), (_turned_where_alone, 5)], ids=["between", "alone"])
def test_a_sequence_form_that_is_wrong_beside_the_probes_is_not_used(
    wrong: Callable[[Array], Array], rows: int, small_artifacts: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = OnnxBackend.run

    def faulty(backend: OnnxBackend, contexts: Array) -> Array:
        answers = run(backend, contexts)
        return answers if contexts.ndim == 3 else wrong(answers)

    monkeypatch.setattr(OnnxBackend, "run", faulty)
    vectors = _document(rows)
    with Predictor(small_artifacts("gru"), backend="onnx") as predictor:
        with pytest.warns(UserWarning, match="window by window.*largest difference to single windows"):
            found = predictor.predict_sequence(vectors)
        np.testing.assert_allclose(found, predictor.predict(_windows(vectors)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("wrong", ["dimension", "metadata"])
def test_a_sequence_form_that_cannot_run_is_not_used_and_says_so(
    wrong: str, small_artifacts: Get, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(small_artifacts("gru"), tmp_path / "gru"))
    artifact, vectors = Artifact.load(path), _document(9)
    with artifact.adding("onnx/sequence-fp32.onnx") as file:
        write_graph(build_form(randomised("gru", dim=24 if wrong == "dimension" else 16)), file, "fp32", "sequence")
        if wrong == "metadata":
            file.write_bytes(file.read_bytes().replace(b"context_length", b"context_lengte"))
        artifact.commit(file, "onnx/sequence-fp32.onnx", format="onnx", precision="fp32", drift=1e-12, form="sequence")
    with Predictor(path) as predictor:
        with pytest.warns(UserWarning, match="window by window.*sequence-fp32.onnx"):
            found = predictor.predict_sequence(vectors)
        np.testing.assert_allclose(found, predictor.predict(_windows(vectors)), rtol=0, atol=1e-6)
        assert any("sequence-fp32.onnx: it cannot be run (" in refusal.why for refusal in predictor.explain().refused)


def test_a_damaged_sequence_form_is_not_used_and_says_so(small_artifacts: Get, tmp_path: Path) -> None:
    path = Path(shutil.copytree(small_artifacts("gru"), tmp_path / "gru"))
    flip(path / "onnx/sequence-fp32.onnx", 0.9)  # among the weights
    with Predictor(path) as predictor, pytest.warns(UserWarning, match=r"window by window.*sequence-fp32.onnx: SHA"):
        predictor.predict_sequence(_document(9))


def test_the_form_of_documents_is_opened_once_and_as_that_of_windows(
    small_artifacts: Get, opened: dict[str, dict[str, Any]]
) -> None:
    with Predictor(small_artifacts("gru"), backend="onnx", device="cpu", threads=3) as predictor:
        assert list(opened) == ["fp32.onnx"]
        for _ in range(2):
            predictor.predict_sequence(_document(9))
    options = {"device": "cpu", "threads": 3, "precision": "fp32"}
    assert opened == {"fp32.onnx": options, "sequence-fp32.onnx": options}


@pytest.mark.parametrize("why", ["of another precision", "the backend runs none"])
def test_a_form_of_documents_that_does_not_fit_is_not_tried(
    why: str, small_artifacts: Get, tmp_path: Path, opened: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copytree(small_artifacts("gru"), tmp_path / "gru"))
    if why == "of another precision":
        edit_manifest(path, lambda m: [c.update(precision="int8") for c in m["compiled"] if c["form"] == "sequence"])
    else:
        monkeypatch.setattr(OnnxBackend, "runs_sequences", False)
    with Predictor(path, backend="onnx") as predictor:
        predictor.predict_sequence(_document(9))  # without a warning
    assert list(opened) == ["fp32.onnx"]


def test_after_a_close_no_form_of_documents_is_opened(small_artifacts: Get, opened: dict[str, Any]) -> None:
    vectors, artifact = _document(9), Artifact.load(small_artifacts("gru"))
    session, _ = open_session(artifact, Request("onnx"))
    runner = SequenceRunner(artifact, session)
    runner.close()
    runner.close()
    np.testing.assert_array_equal(runner.run(vectors), session.run(window(vectors, 5)))
    session.close()
    assert list(opened) == ["fp32.onnx"]


def test_window_copies_every_window() -> None:
    vectors = np.arange(12, dtype=np.float32).reshape(6, 2)
    np.testing.assert_array_equal(window(vectors, 5), _windows(vectors))
    assert window(vectors, 5).flags.c_contiguous


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_a_rollout_feeds_predictions_back(small_artifacts: Get, steps: int) -> None:
    contexts = some_contexts(3)
    with Predictor(small_artifacts("transformer")) as predictor:
        found = predictor.rollout(contexts, steps)
        alone = predictor.rollout(contexts[1], steps)
        history = contexts
        for step in range(steps):
            expected = predictor.predict(history[:, step : step + 5])
            np.testing.assert_allclose(found[:, step], expected, rtol=0, atol=1e-6)
            history = np.concatenate([history, expected[:, None]], axis=1)
    assert found.shape == (3, steps, 16)
    np.testing.assert_allclose(alone, found[1], rtol=0, atol=2e-5)  # seven steps of rounding


@pytest.mark.parametrize("steps", [-1, 1.5, None], ids=str)
def test_steps_must_be_a_count(small_artifacts: Get, steps: Any) -> None:
    with Predictor(small_artifacts("amn")) as predictor, pytest.raises(InvalidInput, match="expected a whole number"):
        predictor.rollout(some_contexts(1), steps)


@pytest.mark.parametrize("count", [0, 1, 4, 9])
def test_a_stream_yields_in_order(small_artifacts: Get, count: int) -> None:
    contexts = some_contexts(count)
    with Predictor(small_artifacts("amn")) as predictor:
        found = list(predictor.stream(iter(contexts), batch_size=4))
        assert len(found) == count
        for one, context in zip(found, contexts, strict=True):
            np.testing.assert_allclose(one, predictor.predict(context), rtol=0, atol=1e-6)


def test_a_stream_reads_no_further_than_a_batch(small_artifacts: Get) -> None:
    taken: list[int] = []

    def source() -> Iterator[Any]:
        for number, context in enumerate(some_contexts(100)):
            taken.append(number)
            yield context

    with Predictor(small_artifacts("amn")) as predictor:
        next(predictor.stream(source(), batch_size=4))
    assert len(taken) == 4


def test_a_bad_item_of_a_stream_is_named_after_those_before_it(small_artifacts: Get) -> None:
    contexts = list(some_contexts(5))
    contexts[3] = contexts[3][:4]
    with Predictor(small_artifacts("amn")) as predictor:
        stream = predictor.stream(contexts)
        assert len([next(stream) for _ in range(3)]) == 3
        with pytest.raises(InvalidInput, match=r"context 3 of the stream: contexts have shape \[4, 16\]"):
            next(stream)
