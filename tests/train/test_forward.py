"""The forms that are trained through are the models: predictions and every gradient, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lvm_runtime.artifact.config import ARCHITECTURES, CONFIGS, make_config
from lvm_runtime.models import build_model
from train.forward import training_form


@pytest.mark.parametrize("context_length", [5, 1], ids=["T=5", "T=1"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_same_predictions_and_gradients(architecture: str, context_length: int) -> None:
    config = make_config(architecture, **CONFIGS[architecture].small, context_length=context_length)
    model = build_model(config, seed=0).double().eval()  # without dropout
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():  # far from where gates and attention are constant
        torch.nn.init.normal_(parameter, std=0.7, generator=generator)
    contexts = torch.randn(9, context_length, 16, dtype=torch.float64, generator=generator, requires_grad=True)
    form = training_form(model, host=True)
    assert form is not model
    results = []
    for subject in (model, form):
        model.zero_grad()
        contexts.grad = None
        predictions = subject(contexts)
        (predictions * torch.arange(16)).sum().backward()
        results.append([predictions.detach(), contexts.grad, *(p.grad for p in model.parameters())])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("architecture", ["lstm", "gru", "transformer"])
def test_dropout_is_where_the_model_has_it(architecture: str, layers: int) -> None:
    """Each dropout in turn drops everything, so that a form which drops elsewhere computes something else."""
    sizes = CONFIGS[architecture].small | {"num_layers": layers}
    model: Any = build_model(make_config(architecture, **sizes, dropout=0.0), seed=0).double()
    form = training_form(model, host=True).train()
    contexts = torch.randn(4, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = form(contexts)
    drops = [(m, "p") for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    drops += [(m, "dropout") for m in model.modules() if isinstance(m, torch.nn.MultiheadAttention)]
    assert drops
    for module, share in drops:
        setattr(module, share, 1.0)
        torch.testing.assert_close(form.train()(contexts), model.train()(contexts), rtol=1e-9, atol=1e-11)
        drops_nothing = architecture == "lstm" and layers == 1
        assert torch.allclose(form(contexts), whole, rtol=0, atol=1e-4) == drops_nothing, module
        torch.testing.assert_close(form.eval()(contexts), whole, rtol=1e-9, atol=1e-11)
        setattr(module, share, 0.0)


def test_other_devices_keep_their_own_recurrence() -> None:
    lstm = build_model(make_config("lstm", dim=16, hidden_dim=16))
    assert training_form(lstm, host=False) is lstm
