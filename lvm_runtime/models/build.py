"""From a config to a module, and from a module to the float64 answers that every compiled form must give."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lvm_runtime.artifact.config import ModelConfig
from lvm_runtime.models.amn import AMN
from lvm_runtime.models.gru import GRUStack
from lvm_runtime.models.lstm import LSTM
from lvm_runtime.models.transformer import Transformer

_MODELS: dict[str, Any] = {"lstm": LSTM, "gru": GRUStack, "transformer": Transformer, "amn": AMN}


def build_model(config: ModelConfig, *, seed: int | None = None) -> nn.Module:
    """Return a freshly initialised training form on the CPU in float32, whatever torch's defaults are.

    With `seed` the initial weights are reproducible and the caller's random state is left alone. With another default
    dtype the same seed draws other weights.
    """
    if seed is None:
        with torch.device("cpu"):
            model: nn.Module = _MODELS[config.architecture](config).float()
        return model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(config)


def parameter_count(model: nn.Module) -> int:
    """Return the number of trainable values (buffers, such as position tables, do not count)."""
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def known_answers(model: nn.Module, contexts: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Compute predictions `[n, D]`, and for the AMN attention `[n, T]`, in float64 on the CPU in eval mode.

    `model` is left untouched: the computation runs on a float64 copy.
    """
    reference = copy.deepcopy(model).cpu().double().eval()
    x = torch.from_numpy(np.ascontiguousarray(contexts, dtype=np.float64))
    if isinstance(reference, AMN):
        predictions, attention = reference.forward_with_attention(x)
        return predictions.numpy(), attention.numpy()
    answer: Tensor = reference(x)
    return answer.numpy(), None
