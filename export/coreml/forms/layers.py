"""The layers that the Core ML forms share, in the layout that the Neural Engine wants.

Apple's "Deploying Transformers on the Apple Neural Engine" (2022) gives the principles: a four-dimensional
channels-first layout (B, C, 1, S), 1×1 convolutions in place of linear layers, as few reshapes as possible.

B batch, C channels, S sequence positions (the T steps, or 1).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SMALLEST = 2.0**-14
"""The smallest normal fp16 number; a device may flush what lies below it to zero."""


_FLOOR = 1e-12  # a scale of zero would take the shift with it


def to_channels(contexts: Tensor) -> Tensor:
    """Lay contexts `[B, T, D]` out as `[B, D, 1, T]`."""
    return contexts.transpose(1, 2).unsqueeze(2)


def pointwise(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """Return the 1×1 convolution that does what a linear layer with `weight` `[out, in]` and `bias` `[out]` does."""
    outputs, inputs = weight.shape
    conv = nn.Conv2d(inputs, outputs, 1, bias=bias is not None, dtype=weight.dtype)
    with torch.no_grad():
        conv.weight.copy_(weight[:, :, None, None])
        if bias is not None and conv.bias is not None:
            conv.bias.copy_(bias)
    return conv


def pointwise_of(linear: nn.Linear) -> nn.Conv2d:
    """Return the 1×1 convolution that does what `linear` does."""
    return pointwise(linear.weight, linear.bias)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of `[B, C, 1, S]`.

    Written out in the one order that coremltools recognises and fuses into its `layer_norm` operation, which keeps
    its sums wide; left as it stands it would overflow fp16 from a standard deviation of 100 on.
    """

    shift: Tensor  # [1, C, 1, 1]
    scale: Tensor  # [1, C, 1, 1]

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        scale = norm.weight.detach()
        scale = torch.where(scale.abs() < _FLOOR, torch.full_like(scale, _FLOOR), scale)
        # the pattern adds before it scales; coremltools multiplies this shift by the scale again, in fp32
        shift = norm.bias.detach() / scale
        self.register_buffer("scale", scale[None, :, None, None])
        self.register_buffer("shift", shift[None, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised `[B, C, 1, S]`."""
        centred = x - x.mean(dim=1, keepdim=True)
        variance = (centred * centred).mean(dim=1, keepdim=True)
        return (centred * (variance + self.eps).rsqrt() + self.shift) * self.scale


class ErfGELU(nn.Module):
    """GELU by the error function, for devices whose fused operation is a coarse table."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x·Φ(x)."""
        return x * (torch.erf(x * 0.5**0.5) + 1.0) * 0.5


def unit(y: Tensor) -> Tensor:
    """L2-normalise `y` `[B, C, 1, 1]` over its channels without leaving the range of fp16.

    Dividing by the largest magnitude first keeps the sum of squares between 1 and C; squares of the raw values
    overflow at 256. A zero vector stays zero, as with `F.normalize`, whose eps of 1e-12 fp16 does not have.
    """
    largest = y.abs().amax(dim=1, keepdim=True).clamp_min(SMALLEST)
    scaled = y / largest
    return scaled * (scaled * scaled).sum(dim=1, keepdim=True).clamp_min(SMALLEST).rsqrt()


def flat(y: Tensor) -> Tensor:
    """Drop the two trailing axes of `[B, C, 1, 1]`."""
    return y.squeeze(3).squeeze(2)
