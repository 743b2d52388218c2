"""The native backend: served like any other, light, and an error that says what to do for everything it lacks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from export.native.export import export_native
from export.native.files import FILES
from export.source import Source
from export.verify import make_samples
from lvm_runtime import Predictor
from lvm_runtime.artifact.config import make_config
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends import backend_class
from lvm_runtime.backends.native import PATH_VARIABLE, NativeBackend
from lvm_runtime.errors import ArtifactError, BackendUnavailable, InvalidInput, LvmError
from lvm_runtime.models import build_model, save_model
from lvm_runtime.predictor import MOST_AT_ONCE
from tests.artifacts import some_contexts

_engine = pytest.importorskip("lvm_runtime.native._engine", reason="the extension is not built")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """An AMN with both native forms and no other."""
    config = make_config("amn", dim=64, hidden_dim=96, attention_dim=32, bottleneck_dim=48)
    model = build_model(config, seed=0).eval()
    source = Source(save_model(model, tmp_path_factory.mktemp("native") / "amn"), model)
    for kind in ("context", "sequence"):
        export_native(source, make_samples(source), kind)
    return Artifact.load(source.artifact.path)


def test_predictor_serves_it(artifact: Artifact) -> None:
    contexts = some_contexts(9, 64)
    with Predictor(artifact.path, max_drift=1e-3, threads=1) as predictor:
        fastest = NativeBackend(artifact.path / FILES["context", "int8"]).instructions
        assert f"native int8 on cpu ({fastest})" in str(predictor.explain())
        predictions, attention = predictor.predict(contexts, return_attention=True)
        assert attention.shape == (9, 5)
        np.testing.assert_array_equal(predictor.predict(contexts[4]), predictions[4])
        document = contexts.reshape(-1, 64)
        np.testing.assert_array_equal(predictor.predict_sequence(document)[::5], predictions)


@pytest.mark.parametrize("batch", [1, 9])
def test_contexts_may_lie_at_any_byte(artifact: Artifact, batch: int) -> None:
    """As those of a request do, behind a head of any length; the engine reads whole words only."""
    contexts = some_contexts(batch, 64)
    unaligned = np.frombuffer(b"_" + contexts.tobytes(), np.float32, offset=1).reshape(contexts.shape)
    with Predictor(artifact.path, backend="native", threads=1) as predictor:
        np.testing.assert_array_equal(predictor.predict(unaligned), predictor.predict(contexts))
        documents = unaligned.reshape(-1, 64), contexts.reshape(-1, 64)
        np.testing.assert_array_equal(*map(predictor.predict_sequence, documents))


def test_a_bad_row_is_refused_by_its_number(artifact: Artifact) -> None:
    """The engine says that there is one, and NumPy which."""
    contexts = some_contexts(MOST_AT_ONCE + 9, 64)
    for bad, what in ((np.nan, "NaN|nan"), (np.inf, "inf"), (1e20, "has norm")):
        contexts[MOST_AT_ONCE + 3, 2, 5] = bad
        with Predictor(artifact.path, backend="native") as predictor:
            for call, value, where in (
                (predictor.predict, contexts, rf"row {MOST_AT_ONCE + 3}, position 2"),
                (predictor.predict, contexts[MOST_AT_ONCE:], "row 3, position 2"),
                (predictor.predict, contexts[MOST_AT_ONCE + 3], "row 0, position 2"),
                (predictor.predict_sequence, contexts[MOST_AT_ONCE:].reshape(-1, 64), "row 17"),
            ):
                with pytest.raises(InvalidInput, match=where) as caught:
                    call(value)
                assert re.search(what, str(caught.value))


def test_a_norm_at_the_very_bound_is_served(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the engine's sum of squares is over the bound by a rounding, NumPy's decides."""
    contexts = some_contexts(5, 64)
    with Predictor(artifact.path, backend="native", threads=1) as predictor:
        expected, document = predictor.predict(contexts), predictor.predict_sequence(contexts.reshape(-1, 64))
        monkeypatch.setattr(NativeBackend, "run_usable", lambda *_: None)
        predictor._session.run_usable = lambda _: None
        np.testing.assert_array_equal(predictor.predict(contexts), expected)
        np.testing.assert_array_equal(predictor.predict_sequence(contexts.reshape(-1, 64)), document)


def test_sequence_file_gives_the_windows_answers(artifact: Artifact) -> None:
    contexts = some_contexts(6, 64)
    context, sequence = (
        NativeBackend(artifact.path / FILES[kind, "int8"], threads=1) for kind in ("context", "sequence")
    )
    predictions = sequence.run(np.ascontiguousarray(contexts.reshape(-1, 64)))
    assert predictions.shape == (26, 64)
    np.testing.assert_array_equal(predictions[::5], context.run(contexts))
    again, attention = sequence.run_with_attention(np.ascontiguousarray(contexts[0]))
    np.testing.assert_array_equal(again, predictions[:1])
    assert attention.shape == (1, 5)


def test_instructions_can_be_chosen(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    contexts = some_contexts(5, 64)
    expected = NativeBackend(artifact.path / FILES["context", "int8"]).run(contexts)
    monkeypatch.setenv(PATH_VARIABLE, "plain")
    plain = NativeBackend(artifact.path / FILES["context", "int8"])
    assert plain.instructions == "plain C++"
    np.testing.assert_array_equal(plain.run(contexts), expected)
    monkeypatch.setenv(PATH_VARIABLE, "mmx")
    with pytest.raises(BackendUnavailable, match=r"mmx is not one of this machine's: .*plain"):
        NativeBackend(artifact.path / FILES["context", "int8"])


def test_serving_loads_numpy_and_the_extension_alone(artifact: Artifact) -> None:
    script = """
import sys
import numpy as np
from lvm_runtime import Predictor
with Predictor(sys.argv[1], backend="native") as predictor:
    assert predictor.predict(np.ones((5, 64), np.float32)).shape == (64,)
print([name for name in ("onnxruntime", "torch", "safetensors", "openvino") if name in sys.modules])
"""
    command = [sys.executable, "-c", script, str(artifact.path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_what_it_cannot_do_is_an_error(artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = artifact.path / FILES["context", "int8"]
    with pytest.raises(BackendUnavailable, match="cuda"):
        NativeBackend(file, device="cuda")
    with pytest.raises(ArtifactError, match="says that it is int8"):
        NativeBackend(file, precision="fp32")
    for content in (b"", b"not a model", file.read_bytes()[:1000]):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(ArtifactError, match=r"model\.safetensors"):
            NativeBackend(tmp_path / "model.safetensors")
    closed = NativeBackend(file)
    closed.close()
    with pytest.raises(LvmError, match="closed"):
        closed.run(some_contexts(1, 64))
    monkeypatch.setitem(sys.modules, "lvm_runtime.native._engine", None)
    monkeypatch.delattr("lvm_runtime.native._engine", raising=False)
    with pytest.raises(BackendUnavailable, match=r"needs lvm_runtime.native._engine.*pip install -e \. in /.*compiler"):
        NativeBackend(file)


def test_registry_knows_it() -> None:
    assert backend_class("native") is NativeBackend
