"""What every int8 form is made of: rounded weights, scaled rows, centres."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import nn

from export.forms import Form, build_form, refinements, sensitivity
from export.forms.base import Window
from export.forms.int8 import Calibration
from export.forms.ops import Ops, TorchOps, Value
from export.forms.rounding import Rounded, quantise_weight, round_halves, round_rows
from export.forms.sensitivity import Error, Product, drift_of_errors
from export.native.export import export_native, write_native
from export.onnx.export import export_onnx, write_graph
from export.source import Source
from export.verify import DocumentRunner, make_samples
from lvm_runtime.artifact.config import ARCHITECTURES, make_config
from lvm_runtime.artifact.drift import drift, max_drift
from lvm_runtime.artifact.fingerprint import random_contexts
from lvm_runtime.backends import backend_class
from lvm_runtime.backends.base import Backend
from lvm_runtime.errors import VerificationFailed
from lvm_runtime.models import build_model, known_answers, save_model
from tests.artifacts import randomised

DIM = 16


@pytest.mark.parametrize("rows", [20, 21])
def test_quantised_weight_is_near_and_its_neighbours_do_not_saturate(rows: int) -> None:
    rng = np.random.default_rng(0)
    weight = rng.uniform(-1, 1, (rows, 300))
    weight[:, 2] = 0.0
    weight[:2, 100:] = np.array([[62.5], [65.5]]) * rng.uniform(0.1, 1, 200)  # some are both rounded up, to 129
    values, scale = quantise_weight(weight)
    assert values.dtype == np.int8
    pairs = values[: rows // 2 * 2].astype(int).reshape(-1, 2, 300).sum(axis=1)
    assert np.abs(pairs).max() == 128
    off = np.abs(values * scale - weight)
    assert (off <= scale * 1.0001).all()
    assert np.mean(off > scale / 2 * 1.0001) < 0.02


def test_a_weight_that_is_used_at_each_step_counts_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """How much of the work a weight is says whether a second term is worth its time."""
    counted, linear = Counter[int](), TorchOps.linear

    def count(ops: TorchOps, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        counted[id(weight)] += len(x) * weight.numel()
        return linear(ops, x, weight, bias)

    monkeypatch.setattr(TorchOps, "linear", count)
    form = build_form(randomised("gru"))
    shares = Calibration(form, random_contexts(8, 5, DIM))._shares
    assert shares == counted
    assert max(shares[id(weight)] / weight.numel() for weight in form.buffers() if id(weight) in shares) >= 8 * 4


class Products(Form):
    """One product in the place of a model: a linear one, or that of a ReLU's output behind an identity."""

    def __init__(self, weight: torch.Tensor, *, relu: bool) -> None:
        super().__init__(make_config("lstm", dim=DIM, context_length=1, hidden_dim=DIM))
        self.relu = relu
        self.keep("weight", weight)
        self.keep("identity", torch.eye(DIM, dtype=torch.float64))
        self.keep("bias", torch.full((DIM,), -1.0, dtype=torch.float64))

    def widths(self) -> tuple[int, ...]:
        """Vectors as they are."""
        return (DIM,)

    def project(self, ops: Ops, vectors: Value) -> list[Value]:
        """Hand the vectors on."""
        return [vectors]

    def combine(self, ops: Ops, windows: list[Window]) -> tuple[Value, ...]:
        """Multiply the one vector."""
        x = windows[0].flat()
        if self.relu:
            return (ops.feed_forward(x, self.identity, self.bias, self.weight),)
        return (ops.linear(x, self.weight),)


FORMATS: dict[str, Callable[..., None]] = {"onnx": partial(write_graph, precision="int8"), "native": write_native}


def backend_of(format: str) -> type[Backend]:
    cls: type[Backend] = backend_class(format)
    if cls.missing():
        pytest.skip(str(cls.missing()))
    return cls


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
def test_product_of_whole_steps_is_that_of_the_rounded_weight(format: str, relu: bool, tmp_path: Path) -> None:
    """A row's largest number is the last step; where the others are whole steps, only the weight is rounded."""
    cls = backend_of(format)
    weight = np.random.default_rng(1).uniform(-1, 1, (DIM, DIM))
    FORMATS[format](Products(torch.from_numpy(weight), relu=relu), tmp_path / "product")
    values, scale = quantise_weight(weight)
    rows = np.concatenate([127 * np.eye(DIM), -127 * np.eye(DIM), np.zeros((1, DIM))]).astype(np.float32) / 42
    rows[0, 1] = 43 / 42  # 43 steps of 127 before, and 3 of 255 behind the ReLU
    after = np.maximum(rows - 1, 0) if relu else rows  # nothing is left of the rows that are negative throughout
    found = cls(tmp_path / "product", threads=1).run(np.ascontiguousarray(rows[:, None]))
    np.testing.assert_allclose(found, after @ (values * scale), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
def test_diagonal_is_not_rounded(format: str, relu: bool, tmp_path: Path) -> None:
    """On the diagonal's scale everything else is half a step, and on its own it is whole steps."""
    cls, rng = backend_of(format), np.random.default_rng(1)
    weight = np.diag(rng.uniform(0.9, 1, DIM)) + np.where(rng.random((DIM, DIM)) < 0.5, -0.0035, 0.0035)
    rows = (127 * np.eye(DIM).astype(np.float32) / 42)[:, None]
    FORMATS[format](Products(torch.from_numpy(weight), relu=relu), tmp_path / "product", contexts=rows)
    after = rows[:, 0] - 1 if relu else rows[:, 0]
    found = cls(tmp_path / "product", threads=1).run(rows)
    np.testing.assert_allclose(found, np.maximum(after, 0) @ weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("first", [0, 8])
def test_what_rounding_left_of_some_columns_is_added(
    format: str, relu: bool, first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight columns are a thousand times as large as the others, which stay as they are."""
    cls = backend_of(format)
    for name, number in {"TOLERATED": 0, "AIM": 0, "MOST_MORE": 0.5, "BLOCK": 8, "LEAST_WORTH": 1e-6}.items():
        monkeypatch.setattr(refinements, name, number)
    weight = np.random.default_rng(1).standard_normal((DIM, DIM))
    weight[:, [n for n in range(DIM) if not first <= n < first + 8]] *= 1e-3
    rows = (127 * np.eye(DIM).astype(np.float32) / 42)[:, None]  # whole steps: only the weight is rounded
    FORMATS[format](Products(torch.from_numpy(weight), relu=relu), tmp_path / "product", contexts=rows)
    found = cls(tmp_path / "product", threads=1).run(rows)
    after = np.maximum(rows[:, 0] - 1, 0) if relu else rows[:, 0]
    off = np.abs(found - after @ weight) / np.abs(weight).max(axis=0)
    assert off[:, first : first + 8].max() < 2e-4
    assert np.delete(off, np.s_[first : first + 8], axis=1).max() > 2e-3


@pytest.mark.parametrize("reader", ["onnx", "native", "sequence"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_refined_products_drift_less(
    architecture: str, reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all weights in two terms and all rows in halves, 5 to 9 % of the drift are left."""
    model, contexts = randomised(architecture), random_contexts(40, 5, DIM, seed=3)
    cls, answers = backend_of("native" if reader == "sequence" else reader), known_answers(model, contexts)[0]

    def run(name: str) -> NDArray[Any]:
        if reader == "sequence":
            write_native(build_form(model), tmp_path / name, "sequence")
            return DocumentRunner(tmp_path / name, 5, format="native").run(contexts)
        FORMATS[reader](build_form(model), tmp_path / name)
        backend = cls(tmp_path / name, threads=1)
        found = backend.run(contexts)
        np.testing.assert_allclose(
            backend.run(contexts[5:6]), found[5:6], rtol=0, atol=0 if reader == "native" else 1e-6
        )
        return found

    plain = drift(run("plain"), answers).mean()
    for name, number in {"TOLERATED": 0, "AIM": 0, "MOST_MORE": 9, "LEAST_WORTH": -1}.items():
        monkeypatch.setattr(refinements, name, number)
    refined = drift(run("refined"), answers).mean()
    assert 0 < refined < plain / 8


@pytest.mark.parametrize("reader", ["onnx", "native"])
def test_a_form_that_short_vectors_drift_in_is_refused(reader: str, tmp_path: Path) -> None:
    """Without biases, what a LayerNorm makes of a short vector is short, and its mean, which is taken off, is not."""
    model = randomised("amn")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    source = Source(save_model(model, tmp_path / "amn"), model)
    export: Any = export_onnx if reader == "onnx" else export_native
    backend_of(reader)
    with pytest.raises(VerificationFailed, match=r"int8: drift .* with contexts 0\.001 times as long"):
        export(source, make_samples(source), precision="int8")


def passing_on(architecture: str) -> nn.Module:
    """Return a model as it starts from an average, with weights near the identity and large ones in its last layer."""
    sizes: dict[str, dict[str, Any]] = {"lstm": {}, "transformer": {"num_heads": 5, "ffn_dim": 80, "num_layers": 2}}
    model = build_model(make_config(architecture, dim=48, hidden_dim=250, **sizes[architecture]), seed=0)
    parameters, generator = dict(model.named_parameters()), torch.Generator().manual_seed(1)

    def near(factor: float) -> torch.Tensor:
        return factor * torch.eye(250) + 0.01 * torch.randn(250, 250, generator=generator)

    with torch.no_grad():
        if architecture == "lstm":
            for layer in range(2):
                parameters[f"lstm.bias_ih_l{layer}"].view(4, -1)[[0, 3]] = 3.0  # gates that are open
            parameters["lstm.weight_ih_l1"][500:750] = near(1.5)
            last = parameters["output_proj.weight"]
        else:
            parameters["head.0.weight"].copy_(near(1.0))
            attention = "transformer_decoder.layers.0.self_attn"
            parameters[f"{attention}.in_proj_weight"][500:] = near(1.0)
            parameters[f"{attention}.out_proj.weight"].copy_(near(3.0))
            last = parameters["head.3.weight"]
        last.copy_(torch.randn(last.shape, generator=generator) ** 3)
    return model.eval()


@pytest.mark.parametrize("reader", ["onnx", "native", "sequence"])
@pytest.mark.parametrize("architecture", ["lstm", "transformer"])
def test_weights_that_pass_on_what_they_get_do_not_drift(architecture: str, reader: str, tmp_path: Path) -> None:
    """The drift is 5e-5 to 8e-5; it was 1.1e-3 to 1.5e-3 with one scale for a column and its diagonal."""
    model, contexts, path = passing_on(architecture), random_contexts(64, 5, 48), tmp_path / "form"
    if reader == "sequence":
        backend_of("native")
        write_native(build_form(model), path, "sequence")
        runner: Any = DocumentRunner(path, 5, format="native")
    else:
        FORMATS[reader](build_form(model), path)
        runner = backend_of(reader)(path, threads=1)
    assert max_drift(runner.run(contexts), known_answers(model, contexts)[0]) < 1e-4


USED = {"lstm": "recurrent0", "gru": "candidate1", "transformer": "own1", "amn": "middle"}
"""A weight of each architecture that is multiplied in the middle, at several steps where there are steps."""


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "product"])
def test_estimate_is_the_drift_that_errors_cause(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity, "SIGNS", 64)
    if architecture == "product":
        form: Form = Products(3 * torch.eye(DIM, dtype=torch.float64), relu=False)
        weight = form.weight
    else:
        form = build_form(randomised(architecture))
        weight = getattr(form, f"{USED[architecture]}_weight")
    contexts = random_contexts(128, form.length, DIM)
    noise = torch.zeros_like(weight)
    noise[:, 4:8] = 1e-3 * torch.randn(len(weight), 4, generator=torch.Generator().manual_seed(0))

    def errors(product: Product) -> dict[str, Error]:
        return {"noise": Error(product.rows @ noise, 4)} if product.weight is weight else {}

    estimate = drift_of_errors(form, contexts, errors)
    assert [*estimate] == [(id(weight), "noise")]
    with torch.no_grad():
        before = form.contexts(TorchOps(), torch.from_numpy(contexts).double())[0]
        weight += noise
        after = form.contexts(TorchOps(), torch.from_numpy(contexts).double())[0]
    caused = drift(after.numpy(), before.numpy()).mean()
    first, second, *others = estimate[id(weight), "noise"].tolist()
    assert second == pytest.approx(caused, rel=0.05)
    assert not any([first, *others])


def refined(model: nn.Module) -> tuple[dict[str, Rounded], float]:
    """Return which weights of a model are refined, by name, and the multiply-adds that this adds, as a share."""
    form = build_form(model)
    calibration = Calibration(form)
    calibration.round(form.output_weight)
    names, shares = {id(buffer): name for name, buffer in form.named_buffers()}, calibration._shares
    found = {id: r for id, r in calibration._rounded.items() if r.residuals or r.halves}
    more = [
        shares[id] * (r.halves + sum(len(scale) for _, scale in r.residuals.values()) / r.rest.shape[1])
        for id, r in found.items()
    ]
    return {names[id]: r for id, r in found.items()}, sum(more) / sum(shares.values())


def test_only_what_makes_the_drift_is_refined(monkeypatch: pytest.MonkeyPatch) -> None:
    found, more = refined(passing_on("lstm"))
    assert [*found] == ["output_weight"]
    assert 0 < more < 0.02
    for name, number in {"AIM": 0, "LEAST_WORTH": 0, "MOST_MORE": 0.05}.items():
        monkeypatch.setattr(refinements, name, number)
    found, more = refined(passing_on("lstm"))
    assert found["output_weight"].residuals
    assert 0.04 < more <= 0.05
    monkeypatch.setattr(refinements, "TOLERATED", 1)
    assert refined(passing_on("lstm")) == ({}, 0)


def test_drift_that_comes_from_all_products_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOLERATED", "AIM"):
        monkeypatch.setattr(refinements, name, 0)
    assert refined(randomised("lstm")) == ({}, 0)


def test_rows_of_halves_have_steps_of_their_own() -> None:
    rows = torch.tensor([[1.0, -0.5, 0.3, -0.2], [0.0, -2.0, -1.0, -0.5]], dtype=torch.float64)
    expected = [[1, -0.5, round(0.3 * 255) / 255, -round(0.4 * 255) / 510], [0, -2, -256 / 255, -128 / 255]]
    np.testing.assert_allclose(round_halves(rows), expected, rtol=1e-12)
    np.testing.assert_allclose(round_rows(rows, positive=False)[1], [0, -2, -128 / 127, -64 / 127], rtol=1e-12)


def test_plan_is_centred_on_the_contexts_that_it_is_given(tmp_path: Path) -> None:
    form = build_form(randomised("gru"))
    contexts = random_contexts(8, 5, DIM)
    plans = []
    for given in (contexts, -contexts):
        write_native(form, tmp_path / "plan", contexts=given)
        plans.append(load_file(tmp_path / "plan"))
    centres = [name for name in plans[0] if name.endswith("_centre")]
    assert centres
    assert all(np.abs(plans[0][name] - plans[1][name]).max() > 1e-3 for name in centres)
