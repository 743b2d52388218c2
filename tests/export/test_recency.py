"""An AMN with a learned bias per position: every reader of its program computes what the training form does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from export.ane_lint import Level, lint_package
from export.coreml.export import export_coreml
from export.coreml.forms import coreml_form
from export.coreml.options import CoreMLOptions
from export.forms import build_form, multiply_adds
from export.forms.ops import TorchOps
from export.onnx.export import export_onnx, export_sequence
from export.source import Source
from export.torchscript import export_torchscript
from export.verify import Sample
from lvm_runtime import Predictor
from lvm_runtime.artifact.config import make_config
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.errors import InvalidInput
from lvm_runtime.models import build_model, known_answers, load_model, save_model
from tests.artifacts import randomised
from train.forward import training_form
from train.import_checkpoint import reference_config

SIZES = {"hidden_dim": 64, "attention_dim": 48, "bottleneck_dim": 32}
ADDED = {"mean_recency", "attention_recency"}


def recent_model(dim: int = 96, length: int = 5, spread: float = 1.5) -> nn.Module:
    """Return an AMN with recency and random parameters, the biases far from even."""
    model = randomised("amn", dim=dim, context_length=length, recency=True, **SIZES)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name in ADDED:
            getattr(model, name).copy_(spread * torch.randn(length, generator=generator))
    return model


def few(source: Source) -> tuple[Sample, ...]:
    """Return one sample of a dozen contexts."""
    config = source.artifact.config
    contexts = F.normalize(random_contexts(12, config.context_length, config.dim), dim=2)
    return (Sample.of("random", source.model, contexts.float().numpy()),)


def random_contexts(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("length", [1, 2, 5, 8])
def test_forms_equal_the_training_form(length: int) -> None:
    model, contexts = recent_model(24, length), random_contexts(4, length, 24)
    expected, attention = known_answers(model, contexts.numpy())
    for name, form in (("deployment", build_form(model)), ("core ml", coreml_form(model.double()))):
        with torch.no_grad():
            got, weights = form(contexts)
        assert abs(got.numpy() - expected).max() <= 1e-12, name
        assert abs(weights.numpy() - attention).max() <= 1e-12, name
    with torch.no_grad():
        trained = training_form(model, host=True)(contexts)
    assert abs(trained.numpy() - expected).max() <= 1e-12


def test_sequence_form_equals_windows() -> None:
    form, vectors = build_form(recent_model(24)), random_contexts(11, 24)
    windows = vectors.unfold(0, 5, 1).transpose(1, 2)
    for got, wanted in zip(form.sequence(TorchOps(), vectors), form.contexts(TorchOps(), windows), strict=True):
        assert (got - wanted).abs().max() <= 1e-12


def test_gradients_reach_the_biases_alike() -> None:
    model, contexts = recent_model(16).double(), random_contexts(9, 5, 16)
    found = []
    for subject in (model, training_form(model, host=True)):
        model.zero_grad()
        (subject(contexts) * torch.arange(16)).sum().backward()
        found.append([getattr(model, name).grad.clone() for name in sorted(ADDED)])
    for ours, theirs in zip(*found, strict=True):
        assert ours.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_it_starts_at_the_recency_average_and_sees_order() -> None:
    model = build_model(make_config("amn", dim=16, recency=True), seed=0)
    contexts = random_contexts(6, 5, 16).float()
    weights = 0.3 ** torch.arange(4, -1, -1.0)
    expected = F.normalize(torch.einsum("btd,t->bd", contexts, weights), dim=1)
    torch.testing.assert_close(model(contexts), expected)
    published = build_model(make_config("amn", dim=16), seed=0)
    torch.testing.assert_close(published(contexts), published(contexts.flip(1)))
    assert not torch.allclose(model(contexts), model(contexts.flip(1)), atol=1e-3)


def test_off_is_the_published_amn() -> None:
    """Same keys, same initial weights, and recency adds 2 · T numbers and no multiply-adds but its mean's."""
    published, recent = (build_model(make_config("amn", dim=24, recency=on, **SIZES), seed=3) for on in (False, True))
    assert set(recent.state_dict()) - set(published.state_dict()) == ADDED
    for name, value in published.state_dict().items():
        assert torch.equal(value, recent.state_dict()[name]), name
    assert multiply_adds(build_form(recent)) - multiply_adds(build_form(published)) == 5 * 24
    assert reference_config("amn", {"input_dim": 24, "recency": True}) == make_config("amn", dim=24, recency=True)
    with pytest.raises(InvalidInput, match="recency is 2, expected true or false"):
        make_config("amn", recency=2)


def test_every_compiled_form_serves_it(tmp_path: Path) -> None:
    model = recent_model()
    artifact = save_model(model, tmp_path / "amn")
    assert Artifact.load(tmp_path / "amn").config.to_dict()["recency"] is True
    source = Source(artifact, load_model(artifact))
    samples = few(source)
    export_onnx(source, samples, "fp32")
    export_onnx(source, samples, "int8")
    export_sequence(source, samples)
    export_torchscript(source, samples)
    contexts = random_contexts(9, 5, 96).float().numpy()
    expected, attention = known_answers(model, contexts)
    for backend, precision, limit in (("onnx", "fp32", 1e-5), ("onnx", "int8", 2e-2), ("torchscript", "fp32", 1e-5)):
        predictor = Predictor(tmp_path / "amn", backend=backend, precision=precision, max_drift=1e-2)
        got, weights = predictor.predict(contexts, return_attention=True)
        np.testing.assert_allclose(got, expected, atol=limit, err_msg=f"{backend} {precision}")
        np.testing.assert_allclose(weights, attention, atol=limit, err_msg=f"{backend} {precision}")


def test_core_ml_package_is_proved_and_runs_on_the_neural_engine(tmp_path: Path) -> None:
    model = recent_model(64, 3)
    source = Source(save_model(model, tmp_path / "amn"), model)
    artifact = export_coreml(source, few(source), CoreMLOptions(shapes="static", batch_sizes=(2,)))
    path = tmp_path / "amn" / artifact.manifest.compiled[-1].file.path
    assert [finding for finding in lint_package(path) if finding.level is not Level.NOTE] == []
