"""The four training forms against independent re-computations in numpy and against PyTorch's own modules."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from lvm_runtime.artifact.config import ARCHITECTURES, CONFIGS, make_config
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.errors import ArtifactError, InvalidInput
from lvm_runtime.models import build_model, known_answers, load_model, parameter_count, save_model
from tests.artifacts import randomised, some_contexts

Weights = dict[str, NDArray[np.float64]]
Array = NDArray[np.float64]


def _affine(w: Weights, name: str, x: Array) -> Array:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _layer_norm(w: Weights, name: str, x: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _unit(x: Array) -> Array:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _lstm(w: Weights, x: Array) -> Array:
    for layer in range(2):
        names = [f"lstm.{kind}_l{layer}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        w_in, w_hidden, b_in, b_hidden = (w[name] for name in names)
        h = c = np.zeros((len(x), w_hidden.shape[1]))
        outputs = []
        for t in range(x.shape[1]):
            i, f, g, o = np.split(x[:, t] @ w_in.T + b_in + h @ w_hidden.T + b_hidden, 4, axis=1)
            c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
            h = _sigmoid(o) * np.tanh(c)
            outputs.append(h)
        x = np.stack(outputs, axis=1)
    return _unit(_affine(w, "output_proj", x[:, -1]))


def _gru(w: Weights, x: Array) -> Array:
    x = _affine(w, "input_proj", x)
    for block in range(2):
        p = f"blocks.{block}.gru"
        h = np.zeros((len(x), x.shape[2]))
        outputs = []
        for t in range(x.shape[1]):
            r_in, z_in, n_in = np.split(x[:, t] @ w[f"{p}.weight_ih_l0"].T + w[f"{p}.bias_ih_l0"], 3, axis=1)
            r_h, z_h, n_h = np.split(h @ w[f"{p}.weight_hh_l0"].T + w[f"{p}.bias_hh_l0"], 3, axis=1)
            z = _sigmoid(z_in + z_h)
            h = (1 - z) * np.tanh(n_in + _sigmoid(r_in + r_h) * n_h) + z * h
            outputs.append(h)
        x = _layer_norm(w, f"blocks.{block}.norm", x + np.stack(outputs, axis=1))
    return _unit(_affine(w, "output_proj", x[:, -1]))


def _attention(w: Weights, name: str, x: Array, memory: Array, heads: int) -> Array:
    queries, keys, values = (
        source @ weight.T + bias
        for source, weight, bias in zip(
            (x, memory, memory),
            np.split(w[f"{name}.in_proj_weight"], 3),
            np.split(w[f"{name}.in_proj_bias"], 3),
            strict=True,
        )
    )
    steps, width = x.shape[1], x.shape[2] // heads
    mixed = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = queries[..., part] @ keys[..., part].transpose(0, 2, 1) / math.sqrt(width)
        scores[:, np.triu(np.ones((steps, steps), bool), 1)] = -np.inf
        mixed.append(_softmax(scores) @ values[..., part])
    return _affine(w, f"{name}.out_proj", np.concatenate(mixed, axis=-1))


def _transformer(w: Weights, x: Array) -> Array:
    x = _affine(w, "input_proj", x)
    steps, width = x.shape[1:]
    angle = np.arange(steps)[:, None] / 10000 ** (np.arange(0, width, 2) / width)
    positions = np.empty((steps, width))
    positions[:, 0::2], positions[:, 1::2] = np.sin(angle), np.cos(angle)
    x = memory = x + positions
    for layer in range(2):
        p = f"transformer_decoder.layers.{layer}"
        x = _layer_norm(w, f"{p}.norm1", x + _attention(w, f"{p}.self_attn", x, x, 2))
        x = _layer_norm(w, f"{p}.norm2", x + _attention(w, f"{p}.multihead_attn", x, memory, 2))
        hidden = np.maximum(_affine(w, f"{p}.linear1", x), 0)
        x = _layer_norm(w, f"{p}.norm3", x + _affine(w, f"{p}.linear2", hidden))
    return _unit(_affine(w, "head.3", _layer_norm(w, "head.2", _gelu(_affine(w, "head.0", x[:, -1])))))


def _amn_attention(w: Weights, x: Array) -> Array:
    keys, query = _affine(w, "context_encoder", x), _affine(w, "query_encoder", x.mean(1))
    return _softmax(np.einsum("bta,ba->bt", keys, query) / math.sqrt(keys.shape[2]))


def _amn(w: Weights, x: Array) -> Array:
    baseline = x.mean(1)
    weighted = np.einsum("bt,btd->bd", _amn_attention(w, x), x)
    y = _gelu(_affine(w, "residual_net.0", np.concatenate([baseline, weighted], axis=1)))
    y = _gelu(_affine(w, "residual_net.3", _layer_norm(w, "residual_net.2", y)))
    return _unit(baseline + _affine(w, "residual_net.6", _layer_norm(w, "residual_net.5", y)))


RECOMPUTED: dict[str, Any] = {"lstm": _lstm, "gru": _gru, "transformer": _transformer, "amn": _amn}


def _weights(model: nn.Module) -> Weights:
    return {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_forward_equals_an_independent_computation(architecture: str) -> None:
    model = randomised(architecture)
    contexts = some_contexts(7).astype(np.float64)
    expected = RECOMPUTED[architecture](_weights(model), contexts)
    found, _ = known_answers(model, contexts)
    # the Transformer's position table is stored in float32, everything else is exact
    tolerance = 2e-6 if architecture == "transformer" else 1e-13
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_amn_attention_equals_an_independent_computation() -> None:
    model = randomised("amn")
    contexts = some_contexts(7).astype(np.float64)
    _, attention = known_answers(model, contexts)
    assert attention is not None
    np.testing.assert_allclose(attention, _amn_attention(_weights(model), contexts), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("architecture", "count"),
    [("lstm", 5_120_768), ("gru", 7_095_552), ("transformer", 17_867_520), ("amn", 1_510_912)],
)
def test_parameter_count_at_768(architecture: str, count: int) -> None:
    with torch.device("meta"):
        assert parameter_count(build_model(make_config(architecture))) == count


KEYS = {
    "lstm": ["lstm.weight_ih_l0", "lstm.bias_hh_l1", "output_proj.weight"],
    "gru": ["input_proj.weight", "blocks.3.gru.weight_hh_l0", "blocks.0.norm.bias", "output_proj.bias"],
    "transformer": [
        "pos_encoder.pe",
        "transformer_decoder.layers.3.multihead_attn.in_proj_weight",
        "transformer_decoder.layers.0.norm3.weight",
        "head.0.weight",
        "head.2.bias",
        "head.3.bias",
    ],
    "amn": ["context_encoder.weight", "query_encoder.bias", "residual_net.0.weight", "residual_net.6.bias"],
}
COUNTS = {"lstm": 10, "gru": 4 + 4 * 6, "transformer": 2 + 1 + 4 * 18 + 6, "amn": 4 + 10}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_state_dict_keys(architecture: str) -> None:
    with torch.device("meta"):
        keys = set(build_model(make_config(architecture)).state_dict())
    assert set(KEYS[architecture]) <= keys
    assert len(keys) == COUNTS[architecture]


def test_lstm_loads_into_pytorchs_own_module() -> None:
    model: Any = randomised("lstm")
    plain = nn.LSTM(16, 8, num_layers=2, batch_first=True).eval()
    plain.load_state_dict(model.lstm.state_dict(), strict=True)
    x = torch.from_numpy(some_contexts(3))
    torch.testing.assert_close(model.lstm(x), plain(x)[0], rtol=0, atol=1e-6)


def test_transformer_loads_into_pytorchs_own_module() -> None:
    model: Any = randomised("transformer")
    layer = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
    plain = nn.TransformerDecoder(layer, 2).eval()
    plain.load_state_dict(model.transformer_decoder.state_dict(), strict=True)
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    expected = plain(x, x, tgt_mask=mask, memory_mask=mask)
    torch.testing.assert_close(model.transformer_decoder(x, model.causal_mask), expected, rtol=0, atol=1e-5)


def test_gru_block_is_pytorchs_gru_with_a_residual_and_a_norm() -> None:
    block: Any = randomised("gru").blocks[0]  # type: ignore[index, union-attr]
    plain = nn.GRU(8, 8, batch_first=True)
    plain.load_state_dict(block.gru.state_dict(), strict=True)
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(block(x), block.norm(x + plain(x)[0]), rtol=0, atol=1e-6)


def test_lstm_drops_between_its_layers_and_only_in_training() -> None:
    """Not before the first nor after the last: a single layer drops nothing, and what is dropped reaches no second."""
    x = torch.from_numpy(some_contexts(4))
    one: Any = build_model(make_config("lstm", dim=16, hidden_dim=8, num_layers=1, dropout=0.9), seed=0)
    assert torch.equal(one.train()(x), one.eval()(x))
    three: Any = build_model(make_config("lstm", dim=16, hidden_dim=8, num_layers=3, dropout=0.9), seed=0)
    seen: list[torch.Tensor] = []
    three.lstm.dropout.register_forward_hook(lambda module, arguments, output: seen.append(output))
    torch.manual_seed(0)
    three.train()(x)
    kept = [(output != 0).float().mean().item() for output in seen]
    assert kept == pytest.approx([0.1, 0.1], abs=0.08), "between three layers there are two places"
    three.lstm.dropout.p = 1.0
    assert torch.equal(three(x), three(torch.zeros_like(x)))
    assert torch.equal(three.eval()(x), three(x))
    assert not torch.allclose(three(x), three(torch.zeros_like(x)))


def test_amn_starts_as_the_linear_average() -> None:
    model = build_model(make_config("amn", **CONFIGS["amn"].small), seed=0)
    contexts = some_contexts(5)
    found, _ = known_answers(model, contexts)
    np.testing.assert_allclose(found, _unit(contexts.astype(np.float64).mean(1)), rtol=0, atol=1e-15)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_seeded_weights_repeat_and_leave_the_callers_generator_alone(architecture: str) -> None:
    config = make_config(architecture, **CONFIGS[architecture].small)
    states = []
    for own, seed in ((0, 3), (1, 3), (1, 4)):
        torch.manual_seed(own)
        before = torch.get_rng_state()
        states.append(build_model(config, seed=seed).state_dict())
        assert torch.equal(torch.get_rng_state(), before)
    first, same, other = states
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_saved_weights_come_back_exactly(architecture: str, tmp_path: Any) -> None:
    model = randomised(architecture)
    artifact = save_model(model, tmp_path / "model", provenance={"data": "none"})
    loaded = load_model(Artifact.load(tmp_path / "model"))
    assert not loaded.training
    assert all(torch.equal(t, loaded.state_dict()[name]) for name, t in model.state_dict().items())
    assert artifact.manifest.provenance["data"] == "none"
    assert "torch" in artifact.manifest.provenance["versions"]


def test_weights_of_other_sizes_are_refused(tmp_path: Any) -> None:
    artifact = save_model(randomised("amn"), tmp_path / "model")
    other = save_model(randomised("amn", dim=16, attention_dim=4), tmp_path / "other")
    (artifact.path / "model.safetensors").write_bytes((other.path / "model.safetensors").read_bytes())
    artifact = replace(artifact, manifest=replace(artifact.manifest, weights=other.manifest.weights))
    with pytest.raises(ArtifactError, match="not the weights of this amn"):
        load_model(artifact)


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    model = randomised("lstm")
    with torch.no_grad():
        model.output_proj.bias[1] = float("nan")  # type: ignore[index, union-attr, operator]
    with pytest.raises(InvalidInput, match=r"the model: output_proj\.bias has 1 of 16 values"):
        save_model(model, tmp_path / "lstm")
    assert not (tmp_path / "lstm").exists()
