"""The AMN as 1×1 convolutions and two small matrix products.

The keys are never formed: query · (W_k xₜ + b_k) = (W_kᵀ query) · xₜ + a constant over t, which softmax ignores.
So the weights of the key encoder act once per context and not once per position.

B batch, T context length, D vector, A attention width.
"""

from __future__ import annotations

from torch import Tensor, cat, nn

from lvm_runtime.models.amn import AMN

from .layers import ChannelNorm, flat, pointwise, pointwise_of, unit


class ChannelAMN(nn.Module):
    """Map contexts `[B, T, D]` to predictions `[B, D]` and attention `[B, T]`."""

    mean_recency: Tensor
    attention_recency: Tensor

    def __init__(self, model: AMN) -> None:
        super().__init__()
        keys = model.context_encoder.weight.detach()  # [A, D]
        self.query = pointwise_of(model.query_encoder)
        self.key = pointwise(keys.T / model.config.attention_dim**0.5, None)
        self.recent = model.config.recency
        if self.recent:
            self.register_buffer("mean_recency", model.mean_recency.detach().softmax(dim=0)[:, None])  # [T, 1]
            self.register_buffer("attention_recency", model.attention_recency.detach()[:, None])  # [T, 1]
        self.residual = nn.Sequential(*(_channel_layer(layer) for layer in model.residual_net))

    def forward(self, contexts: Tensor) -> tuple[Tensor, Tensor]:
        """Return predictions `[B, D]` and attention `[B, T]`."""
        rows = contexts.unsqueeze(1)  # [B, 1, T, D]
        baseline = self._mean(rows).permute(0, 3, 1, 2)  # [B, D, 1, 1]
        direction = self.key(self.query(baseline)).permute(0, 2, 1, 3)  # [B, 1, D, 1]
        scores = rows @ direction  # [B, 1, T, 1]
        attention = (scores + self.attention_recency if self.recent else scores).softmax(dim=2)
        weighted = (attention.transpose(2, 3) @ rows).permute(0, 3, 1, 2)  # [B, D, 1, 1]
        residual = self.residual(cat([baseline, weighted], dim=1))
        return flat(unit(baseline + residual)), attention.squeeze(3).squeeze(1)

    def _mean(self, rows: Tensor) -> Tensor:
        """Return the mean over positions `[B, 1, 1, D]`, with `recency` the weighted one."""
        return (rows * self.mean_recency).sum(dim=2, keepdim=True) if self.recent else rows.mean(dim=2, keepdim=True)


def _channel_layer(layer: nn.Module) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return pointwise_of(layer)
    return ChannelNorm(layer) if isinstance(layer, nn.LayerNorm) else layer
