"""The Predictor: right answers whatever comes in, and honest about what runs."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lvm_runtime import ArtifactError, BackendUnavailable, InvalidInput, LvmError, Predictor, VerificationFailed
from lvm_runtime.artifact.config import ARCHITECTURES
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.models import known_answers, load_model, save_model
from lvm_runtime.predictor import MOST_AT_ONCE, RELEASE_EVERY
from lvm_runtime.request import Request
from lvm_runtime.selection.candidates import Refusal
from lvm_runtime.selection.choice import open_session
from lvm_runtime.selection.session import Session
from lvm_runtime.system.memory_maps import mapping_of
from tests.artifacts import add_onnx, randomised, some_contexts, with_other_heads
from tests.fuzzing import quick_settings

Get = Callable[[str], Path]
TOLERANCE = 2e-6


@pytest.fixture(scope="module")
def amn(small_artifacts: Get) -> Any:
    with Predictor(small_artifacts("amn")) as predictor:
        yield predictor


def _answers(path: Path, contexts: Any) -> Any:
    return known_answers(load_model(Artifact.load(path)), contexts)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("batch", [1, 2, 33, MOST_AT_ONCE, 2 * MOST_AT_ONCE + 1])
def test_predictions_are_those_of_the_training_form(small_artifacts: Get, architecture: str, batch: int) -> None:
    path = small_artifacts(architecture)
    contexts = some_contexts(batch)
    expected, _ = _answers(path, contexts)
    with Predictor(path) as predictor:
        found = predictor.predict(contexts)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_row_does_not_change_with_its_batch_mates(small_artifacts: Get, architecture: str) -> None:
    """Whatever they are, how many and in which order: rows of lengths from 0.01 to 100."""
    contexts = some_contexts(24) * np.repeat([0.01, 1.0, 100.0], 8)[:, None, None].astype(np.float32)
    with Predictor(small_artifacts(architecture)) as predictor:
        alone = np.stack([predictor.predict(context) for context in contexts])

        @quick_settings(25)
        @given(st.lists(st.integers(0, 23), min_size=1, max_size=70))
        def together(rows: list[int]) -> None:
            np.testing.assert_allclose(predictor.predict(contexts[rows]), alone[rows], rtol=0, atol=1e-6)

        together()


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_attention_comes_second(amn: Predictor, batch: int) -> None:
    contexts = some_contexts(batch)
    predictions, attention = amn.predict(contexts, return_attention=True)
    assert predictions.shape == (batch, 16)
    assert attention.shape == (batch, 5)
    if batch:
        np.testing.assert_allclose(attention, _answers(amn.artifact.path, contexts)[1], rtol=0, atol=TOLERANCE)
        assert amn.predict(contexts[0], return_attention=True)[1].shape == (5,)


def test_attention_of_a_model_without_is_refused(small_artifacts: Get) -> None:
    with Predictor(small_artifacts("gru")) as predictor, pytest.raises(InvalidInput, match="gru has no attention"):
        predictor.predict(some_contexts(1), return_attention=True)


@pytest.mark.parametrize("kind", ["lists", "float16", "float64", "tensor", "bfloat16 tensor", "strided"])
def test_input_kinds(amn: Predictor, kind: str) -> None:
    contexts = some_contexts(3)
    expected = amn.predict(contexts)
    value: Any = {
        "lists": contexts.tolist(),
        "float16": contexts.astype(np.float16),
        "float64": contexts.astype(np.float64),
        "tensor": torch.from_numpy(contexts),
        "bfloat16 tensor": torch.from_numpy(contexts).bfloat16(),
        "strided": np.asfortranarray(contexts),
    }[kind]
    found = amn.predict(value)
    assert isinstance(found, torch.Tensor) == ("tensor" in kind)
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=2e-2 if "16" in kind else 1e-6)


@pytest.mark.parametrize("backend", ["onnx", "openvino", "torchscript", "eager"])
def test_a_lone_row_of_a_reversed_or_read_only_array_is_a_row(small_artifacts: Get, backend: str) -> None:
    contexts = some_contexts(1)
    with Predictor(small_artifacts("gru"), backend=backend) as predictor:
        expected = predictor.predict(contexts)
        contexts.flags.writeable = False
        for same in (contexts[::-1], contexts):
            np.testing.assert_array_equal(predictor.predict(same), expected)


@pytest.mark.cuda
def test_a_cuda_tensor_comes_back_on_its_device(amn: Predictor) -> None:
    found = amn.predict(torch.from_numpy(some_contexts(3)).cuda())
    assert found.device.type == "cuda"


@pytest.mark.mps
def test_an_mps_tensor_comes_back_on_its_device(amn: Predictor) -> None:
    found = amn.predict(torch.from_numpy(some_contexts(3)).to("mps"))
    assert found.device.type == "mps"


@pytest.mark.parametrize("single", [False, True], ids=["batch", "single"])
def test_out_is_filled_and_returned(amn: Predictor, single: bool) -> None:
    contexts = some_contexts(4)[0] if single else some_contexts(4)
    out = np.full((16, 4) if not single else (16,), 9, np.float32).T  # not contiguous
    assert amn.predict(contexts, out=out) is out
    np.testing.assert_array_equal(out, amn.predict(contexts))


def test_out_is_returned_for_a_tensor_too(amn: Predictor) -> None:
    contexts, document = torch.from_numpy(some_contexts(4)), torch.from_numpy(some_contexts(2).reshape(10, 16))
    out, windows = np.empty((4, 16), np.float32), np.empty((6, 16), np.float32)
    assert amn.predict(contexts, out=out) is out
    assert amn.predict_sequence(document, out=windows) is windows
    np.testing.assert_array_equal(out, amn.predict(contexts.numpy()))
    np.testing.assert_array_equal(windows, amn.predict_sequence(document.numpy()))


@pytest.mark.parametrize(
    "out",
    [
        np.empty((3, 16), np.float64),
        np.empty((2, 16), np.float32),
        [[0.0] * 16] * 3,
        np.zeros(3, np.float32),
        np.broadcast_to(np.float32(0), (3, 16)),
    ],
    ids=["dtype", "shape", "list", "rank", "read-only"],
)
def test_an_out_that_does_not_fit_is_refused(amn: Predictor, out: Any) -> None:
    with pytest.raises(InvalidInput, match=r"out is .*expected a writable float32 numpy array of shape \[3, 16\]"):
        amn.predict(some_contexts(3), out=out)


@pytest.mark.parametrize(("batch", "row"), [(1, 0), (9, 5), *((2 * MOST_AT_ONCE, MOST_AT_ONCE + i) for i in (-1, 3))])
def test_a_bad_row_is_named_wherever_it_is(amn: Predictor, batch: int, row: int) -> None:
    contexts = some_contexts(batch)
    contexts[row, 4, 15] = np.nan
    with pytest.raises(InvalidInput, match=f"row {row}, position 4, component 15 is nan"):
        amn.predict(contexts)


@pytest.mark.parametrize(("way", "shape"), [("predict", (0, 5, 16)), ("predict_sequence", (4, 16))])
def test_pages_of_mappings_are_handed_back_now_and_then(
    amn: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, shape: tuple[int, ...]
) -> None:
    released: list[Any] = []
    monkeypatch.setattr("lvm_runtime.predictor.release", released.append)
    count = (RELEASE_EVERY + 1) * MOST_AT_ONCE + 1
    given, out = (
        np.lib.format.open_memmap(tmp_path / f"{name}.npy", "w+", np.float32, sizes)
        for name, sizes in (("in", (shape[0] + count, *shape[1:])), ("out", (count, 16)))
    )
    given[...] = 1
    getattr(amn, way)(given, out=out)
    assert released == [mapping_of(given), mapping_of(out)]


def test_many_threads_get_their_own_answers(amn: Predictor) -> None:
    contexts = some_contexts(64)
    expected = amn.predict(contexts)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(amn.predict, np.repeat(contexts, 5, axis=0)))
    np.testing.assert_allclose(np.stack(found), np.repeat(expected, 5, axis=0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("backend", ["auto", "onnx", "torchscript", "eager"])
def test_a_pickled_predictor_is_the_same_again(small_artifacts: Get, backend: str) -> None:
    with Predictor(small_artifacts("gru"), backend=backend, threads=1) as predictor:
        again = pickle.loads(pickle.dumps(predictor))
        np.testing.assert_array_equal(again.predict(some_contexts(3)), predictor.predict(some_contexts(3)))
        assert again.explain() == predictor.explain()


def test_a_pickle_of_other_weights_is_refused(tmp_path: Path) -> None:
    save_model(randomised("amn"), tmp_path / "amn")
    data = pickle.dumps(Predictor(tmp_path / "amn", backend="eager"))
    save_model(randomised("amn", seed=1), tmp_path / "amn")
    with pytest.raises(ArtifactError, match="weights changed"):
        pickle.loads(data)


def test_a_pickle_of_equal_weights_with_other_heads_is_refused(tmp_path: Path) -> None:
    model = randomised("transformer")
    save_model(model, tmp_path / "t")
    data = pickle.dumps(Predictor(tmp_path / "t", backend="eager"))
    save_model(with_other_heads(model), tmp_path / "t")
    with pytest.raises(ArtifactError, match="config or weights changed"):
        pickle.loads(data)


@pytest.mark.parametrize("other", ["weights", "nothing"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_artifact_that_is_replaced_while_it_is_opened_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str, when: str
) -> None:
    """The manifest of the old model would stand for the answers of the new one, in a bulk run that goes on say."""
    save_model(randomised("amn"), tmp_path / "amn")

    def open_replaced(artifact: Artifact, request: Request) -> tuple[Session, list[Refusal]]:
        opened = open_session(artifact, request) if when == "after" else None
        if not replaced:
            replaced.append(save_model(randomised("amn", seed=int(other == "weights")), artifact.path))
        return opened or open_session(artifact, request)

    replaced: list[Artifact] = []
    monkeypatch.setattr("lvm_runtime.predictor.open_session", open_replaced)
    with Predictor(tmp_path / "amn", backend="eager") as predictor:
        assert predictor.artifact.manifest.model == replaced[0].manifest.model
        probes = replaced[0].read_fingerprint()
        np.testing.assert_allclose(predictor.predict(probes.contexts), probes.predictions, rtol=0, atol=1e-6)


def test_what_was_opened_of_an_artifact_that_is_gone_since_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_and_remove(artifact: Artifact, request: Request) -> tuple[Session, list[Refusal]]:
        session, refused = open_session(artifact, request)
        opened.append(session)
        shutil.rmtree(artifact.path)
        return session, refused

    opened: list[Session] = []
    save_model(randomised("amn"), tmp_path / "amn")
    monkeypatch.setattr("lvm_runtime.predictor.open_session", open_and_remove)
    with pytest.raises(ArtifactError, match=r"manifest\.json: cannot be read"):
        Predictor(tmp_path / "amn", backend="eager")
    with pytest.raises(LvmError, match="closed"):
        opened[0].run(some_contexts(1))


def test_an_artifact_that_is_replaced_whenever_it_is_opened_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(randomised("amn"), tmp_path / "amn")
    seeds = iter(range(1, 99))

    def open_replaced(artifact: Artifact, request: Request) -> tuple[Session, list[Refusal]]:
        opened = open_session(artifact, request)
        save_model(randomised("amn", seed=next(seeds)), artifact.path)
        return opened

    monkeypatch.setattr("lvm_runtime.predictor.open_session", open_replaced)
    with pytest.raises(ArtifactError, match="another model took its place while it was opened"):
        Predictor(tmp_path / "amn", backend="eager")
    assert next(seeds) < 9


def test_a_closed_predictor_says_so(small_artifacts: Get) -> None:
    with Predictor(small_artifacts("amn")) as predictor:
        pass
    predictor.close()
    assert "closed" in repr(predictor)
    for use in (predictor.predict, predictor.predict_sequence):
        with pytest.raises(LvmError, match="closed"):
            use(some_contexts(1))


def test_explain_says_what_runs_and_what_does_not(small_artifacts: Get) -> None:
    with Predictor(small_artifacts("amn"), threads=1) as predictor:
        explanation = predictor.explain()
    running = explanation.running
    assert (running.backend, running.device, running.precision, running.threads) == ("onnx", "cpu", "fp32", 1)
    assert 0 < running.drift < 1e-12
    why = {refusal.what: refusal.why for refusal in explanation.refused}
    assert "lvm-runtime tune" in why["eager fp32 (model.safetensors)"]
    assert "bf16 arithmetic drifts" in why["openvino bf16 (onnx/fp32.onnx)"]
    assert "running: onnx fp32 on cpu, 1 thread, drift" in str(explanation)
    assert explanation.to_dict()["running"]["file"] == "onnx/fp32.onnx"


WRONG: dict[str, tuple[dict[str, Any], type[LvmError], str]] = {
    "backend": ({"backend": "tensorrt"}, InvalidInput, "unknown backend 'tensorrt'; expected auto or one of onnx"),
    "precision": ({"precision": "fp8"}, InvalidInput, "precision is 'fp8', expected one of fp32"),
    "threads": ({"threads": 0}, InvalidInput, "threads is 0, expected a whole number from 1 to"),
    "max_drift": ({"max_drift": -1.0}, InvalidInput, "max_drift is -1.0"),
    "typical_batch": ({"typical_batch": 1.5}, InvalidInput, "typical_batch is 1.5"),
    "device": ({"backend": "onnx", "device": "gpu"}, BackendUnavailable, "cannot run on device 'gpu'.*has the devices"),
    "torch device": ({"backend": "eager", "device": "gpu"}, BackendUnavailable, "device 'gpu' is not available"),
    "no form": (
        {"precision": "int8"},
        ArtifactError,
        "no int8 form.*export.onnx --model .* --precision int8",
    ),
    "arithmetic": ({"backend": "eager", "precision": "int8"}, BackendUnavailable, "eager computes in fp32, and int8"),
    "too strict": ({"max_drift": 0.0, "backend": "onnx"}, BackendUnavailable, "drift"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_honoured_is_an_error(
    small_artifacts: Get, arguments: dict[str, Any], error: type[LvmError], message: str
) -> None:
    with pytest.raises(error, match=message):
        Predictor(small_artifacts("amn"), **arguments)


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML runs here")
def test_core_ml_elsewhere_says_where_it_runs(small_artifacts: Get) -> None:
    with pytest.raises(BackendUnavailable, match="runs on macOS only"):
        Predictor(small_artifacts("amn"), backend="coreml", device="ane")


@pytest.fixture
def look_alike(tmp_path: Path) -> Path:
    """An artifact whose ONNX file has the right keys and shapes, and computes another function."""
    model: Any = randomised("amn")
    artifact = save_model(model, tmp_path / "amn")
    with torch.no_grad():
        model.residual_net[0].bias.neg_()
    add_onnx(artifact, model)
    return artifact.path


def test_a_look_alike_for_documents_is_warned_of_where_it_was_asked_for(small_artifacts: Get, tmp_path: Path) -> None:
    path = Path(shutil.copytree(small_artifacts("gru"), tmp_path / "gru"))
    add_onnx(Artifact.load(path), randomised("gru", seed=9), "onnx/sequence-fp32.onnx", kind="sequence")
    with Predictor(path) as predictor, pytest.warns(UserWarning, match="documents run window by window") as told:
        predictor.predict_sequence(np.ones((9, 16)))
    assert {warning.filename for warning in told} == {__file__}


def test_a_look_alike_is_an_error(look_alike: Path) -> None:
    with pytest.raises(
        VerificationFailed,
        match=r"drift from the known answers \(mean .* of 16 probes\) is \d\.\d+e[-+]0\d, expected ≤ 1\.0e-06",
    ):
        Predictor(look_alike, backend="onnx")


def test_a_look_alike_is_never_chosen(look_alike: Path) -> None:
    with pytest.warns(UserWarning, match="not the model that it should be: onnx fp32 on cpu") as told:
        predictor = Predictor(look_alike)
    assert {warning.filename for warning in told} == {__file__}  # the line that made the Predictor
    explanation = predictor.explain()
    assert explanation.running.backend == "eager"
    refused = {refusal.what: refusal.why for refusal in explanation.refused}
    assert "drift from the known answers" in refused["onnx fp32 on cpu (onnx/fp32.onnx)"]
    assert "drift from the known answers" in refused["openvino fp32 (onnx/fp32.onnx)"]
    predictor.close()


NO_TORCH = """
import sys
import lvm_runtime
import numpy as np
light = set(sys.modules)
with lvm_runtime.Predictor(sys.argv[1]) as p:
    p.predict(np.ones((2, 5, 16), np.float32))
    p.predict_sequence(np.ones((9, 16)))
    list(p.stream(np.ones((3, 5, 16))))
    with p.batcher() as b:
        b.submit(np.ones((5, 16))).result()
heavy = {"torch", "openvino", "coremltools", "onnx", "pandas", "pyarrow"}
print(sorted(heavy & set(sys.modules)), sorted({"onnxruntime", "asyncio", "tqdm"} & light))
"""


def test_serving_onnx_loads_no_other_framework(small_artifacts: Get) -> None:
    command = [sys.executable, "-c", NO_TORCH, str(small_artifacts("amn"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[] []\n"


def test_an_artifact_may_be_moved(small_artifacts: Get, tmp_path: Path) -> None:
    path = Path(shutil.copytree(small_artifacts("amn"), tmp_path / "elsewhere"))
    with Predictor(path) as predictor:
        assert predictor.predict(some_contexts(2)).shape == (2, 16)
