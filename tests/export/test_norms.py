"""Up to which norm an int8 form is measured to be the same model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.native.export import export_native
from export.norms import ROUNDING, largest_norm
from export.onnx.export import export_onnx
from export.source import Source, open_source
from export.verify import Sample, make_samples
from lvm_runtime import Predictor
from lvm_runtime.artifact.drift import ATTENTION_LIMITS, DRIFT_LIMITS, largest_difference, max_drift
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends.base import Backend
from lvm_runtime.models import known_answers, save_model
from tests.artifacts import randomised

pytest.importorskip("lvm_runtime.native._engine", reason="the extension is not built")


@pytest.fixture(
    params=[
        ("transformer", {"dim": 64, "hidden_dim": 128, "ffn_dim": 256, "num_layers": 2}),
        ("gru", {"dim": 64, "hidden_dim": 128, "num_layers": 2}),
        ("amn", {"dim": 384}),
    ],
    ids=["transformer", "gru", "amn"],
)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    architecture, sizes = request.param
    save_model(randomised(architecture, seed=2, **sizes), tmp_path / "artifact")
    return open_source(str(tmp_path / "artifact"))


@pytest.mark.parametrize("format", ["native", "onnx"])
def test_int8_records_the_norm_up_to_which_it_stays_within_its_limit(source: Source, format: str) -> None:
    """Also where some vectors of a context alone are so long, and for the attention that the AMN is asked for."""
    samples = make_samples(source)
    artifact = export_native(source, samples) if format == "native" else export_onnx(source, samples, "int8")
    (form,) = Artifact.load(artifact.path).manifest.compiled
    assert form.largest_norm is not None
    contexts = samples[-1].contexts
    contexts = contexts / np.linalg.norm(contexts, axis=2).max()
    with Predictor(artifact.path, backend=format, precision="int8") as predictor:
        assert predictor.largest_norm == form.largest_norm

    def is_same_model_at(norm: float) -> bool:
        long = (contexts * norm).astype(np.float32)
        long[1::3, -1], long[2::3, :-1] = contexts[1::3, -1], contexts[2::3, :-1]
        answers, attention = known_answers(source.model, long)
        with Predictor(artifact.path, backend=format, precision="int8") as predictor:
            predictor.largest_norm = norm * 2  # to try what it refuses
            same = max_drift(predictor.predict(long), answers) <= DRIFT_LIMITS["int8"]
            if attention is not None:
                found = predictor.predict(long, return_attention=True)[1]
                same &= largest_difference(found, attention) <= ATTENTION_LIMITS["int8"]
        return same

    bound = form.largest_norm / (1 + ROUNDING)
    assert is_same_model_at(bound)
    assert 2 * bound <= Backend.largest_norm
    assert not is_same_model_at(2 * bound)


def test_zeros_are_no_longer_when_they_are_doubled(source: Source) -> None:
    (form,) = export_native(source, make_samples(source)).manifest.compiled
    zeros = Sample.of("zeros", source.model, np.zeros((2, 5, source.artifact.config.dim), np.float32))
    path = source.artifact.path / form.file.path
    assert largest_norm(path, source, [zeros], format="native", precision="int8") == 0


def test_full_precision_records_none(source: Source) -> None:
    artifact = export_native(source, make_samples(source), precision="fp32")
    assert [form.largest_norm for form in artifact.manifest.compiled] == [None]
