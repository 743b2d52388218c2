"""Random weights in which every parameter counts.

Fresh models hide mistakes: LayerNorms start as identities, some biases at zero, the AMN's last layer is
zero and a copied layer equals its neighbour. A rewrite that forgets one of them is only seen when each
parameter has values of its own.
"""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def randomise(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """Give every parameter of `model` its own random values, in place, and return it in eval mode.

    Matrices keep the scale of PyTorch's default, uniform within ±1/√fan_in, biases lie within ±0.1, LayerNorm
    scales around 1. The same seed gives the same weights.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
    for name, parameter in model.named_parameters():
        owner, _, kind = name.rpartition(".")
        uniform = torch.empty(parameter.shape).uniform_(-1.0, 1.0, generator=generator)
        if parameter.ndim > 1:
            parameter.copy_(uniform * parameter.shape[-1] ** -0.5)
        elif owner in norms and kind == "weight":
            parameter.copy_(1.0 + 0.3 * uniform)
        else:
            parameter.copy_(0.1 * uniform)
    return model.eval()
