"""From a training form to its deployment form."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from .amn import AMNForm
from .base import Form
from .gru import GRUForm
from .lstm import LSTMForm
from .transformer import TransformerForm

_FORMS: dict[str, Any] = {"lstm": LSTMForm, "gru": GRUForm, "transformer": TransformerForm, "amn": AMNForm}


@torch.no_grad()
def build_form(model: nn.Module) -> Form:
    """Return the deployment form of `model`, rewritten in float64 on the CPU; `model` is left untouched."""
    config: Any = model.config
    form: Form = _FORMS[config.architecture](copy.deepcopy(model).cpu().double().eval())
    return form.eval()
