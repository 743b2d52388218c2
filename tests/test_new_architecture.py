"""What CONTRIBUTING says is all that an architecture needs: a toy one is trained, exported, verified and served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from torch import Tensor, nn
from torch.nn import functional as F

import export.coreml.forms.build as coreml_forms
import export.forms.build as deployment_forms
import lvm_runtime.models.build as models
from export.forms import build_form, multiply_adds
from export.forms.base import Form, Window
from export.forms.ops import Ops, Value
from export.onnx.export import export_onnx
from export.source import open_source
from export.verify import make_samples
from lvm_runtime import Predictor
from lvm_runtime.artifact.config import ARCHITECTURES, CONFIGS, ModelConfig, make_config
from lvm_runtime.artifact.fingerprint import random_contexts
from lvm_runtime.artifact.shapes import Shapes, linear
from lvm_runtime.models import known_answers
from train.options import TUNED, TrainOptions
from train.run import train


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyConfig(ModelConfig):
    """Two linear layers over the whole context."""

    architecture: ClassVar[str] = "toy"
    title: ClassVar[str] = "Toy"
    small: ClassVar[Mapping[str, int]] = {"dim": 16, "hidden_dim": 8}

    hidden_dim: int = 64

    def multiply_adds(self) -> int:
        return (self.context_length + 1) * self.dim * self.hidden_dim

    def weight_shapes(self) -> Shapes:
        yield from linear("wide", self.hidden_dim, self.context_length * self.dim)
        yield from linear("narrow", self.dim, self.hidden_dim)


class Toy(nn.Module):
    """Map contexts `[B, T, D]` to unit predictions `[B, D]`."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        self.wide = nn.Linear(config.context_length * config.dim, config.hidden_dim)
        self.narrow = nn.Linear(config.hidden_dim, config.dim)

    def forward(self, contexts: Tensor) -> Tensor:
        return F.normalize(self.narrow(F.gelu(self.wide(contexts.flatten(1)))), dim=1)


class ToyForm(Form):
    """The toy as a program over `Ops`."""

    def __init__(self, model: Toy) -> None:
        super().__init__(model.config)
        for name, layer in (("wide", model.wide), ("narrow", model.narrow)):
            self.keep(f"{name}_weight", layer.weight.T)
            self.keep(f"{name}_bias", layer.bias)

    def widths(self) -> tuple[int, ...]:
        return (self.config.dim,)

    def project(self, ops: Ops, vectors: Value) -> list[Value]:
        return [vectors]

    def combine(self, ops: Ops, windows: list[Window]) -> tuple[Value, ...]:
        hidden = ops.gelu(ops.linear(windows[0].flat(), self.wide_weight, self.wide_bias))
        return (ops.normalise(ops.linear(hidden, self.narrow_weight, self.narrow_bias)),)


def test_a_toy_architecture_is_trained_exported_and_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables: list[tuple[Any, Any]] = [(CONFIGS, ToyConfig), (models._MODELS, Toy), (deployment_forms._FORMS, ToyForm)]
    for table, entry in tables:
        monkeypatch.setitem(table, "toy", entry)
    options = TrainOptions(
        model="toy", data="synthetic", windows=400, epochs=1, device="cpu", out=tmp_path / "toy", dim=16
    )
    train(options, lambda line: None)
    source = open_source(str(tmp_path / "toy"))
    assert source.artifact.config == ToyConfig(dim=16)
    assert multiply_adds(build_form(source.model)) == make_config("toy", dim=16).multiply_adds()
    export_onnx(source, make_samples(source), "fp32")
    contexts = random_contexts(40, 5, 16)
    with Predictor(tmp_path / "toy") as predictor:
        found = predictor.predict(contexts)
    np.testing.assert_allclose(found, known_answers(source.model, contexts)[0], rtol=0, atol=2e-5)


def test_every_table_has_every_architecture() -> None:
    for table in (models._MODELS, deployment_forms._FORMS, coreml_forms._FORMS, TUNED):
        assert tuple(sorted(table)) == tuple(sorted(ARCHITECTURES))
