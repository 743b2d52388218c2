"""Attention Mixture Network: improve on the average of the context instead of learning it.

The prediction starts at the mean of the context and a small residual network moves it. The residual
network sees the mean and one attention-weighted mixture of the context. With its last layer at zero
the model *is* the linear average, so training starts from that baseline and not from noise; PyTorch's
default initialisation measurably never finds its way back to it.

With `recency` the mean weighs positions by the softmax of a learned bias, and another is added to the attention
scores. It then starts at the recency-weighted average: without it the network cannot know which vector is the last.

B batch, T context length, D vector, A attention width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lvm_runtime.artifact.config import AMNConfig

RECENCY_DECAY = 0.3
"""The weight of a vector as a share of the next one's, where training begins."""


class AMN(nn.Module):
    """Map contexts `[B, T, D]` to unit predictions `[B, D]`; keeps the attention weights `[B, T]` available."""

    def __init__(self, config: AMNConfig) -> None:
        super().__init__()
        dim, hidden, bottleneck = config.dim, config.hidden_dim, config.bottleneck_dim
        self.config = config
        self.context_encoder = nn.Linear(dim, config.attention_dim)
        self.query_encoder = nn.Linear(dim, config.attention_dim)
        self.residual_net = nn.Sequential(
            nn.Linear(2 * dim, hidden),
            nn.GELU(),
            nn.LayerNorm(hidden),
            nn.Linear(hidden, bottleneck),
            nn.GELU(),
            nn.LayerNorm(bottleneck),
            nn.Linear(bottleneck, dim),
        )
        last = self.residual_net[6]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        if config.recency:
            ages = torch.arange(config.context_length - 1, -1, -1, dtype=torch.float32)
            self.mean_recency = nn.Parameter(ages * math.log(RECENCY_DECAY))  # [T]
            self.attention_recency = nn.Parameter(torch.zeros(config.context_length))  # [T]

    def baseline(self, contexts: Tensor) -> Tensor:
        """Return the mean of the context, with `recency` the weighted one `[B, D]`."""
        if not self.config.recency:
            return contexts.mean(dim=1)
        return self.mean_recency.softmax(dim=0) @ contexts  # [T] @ [B, T, D]

    def forward_with_attention(self, contexts: Tensor) -> tuple[Tensor, Tensor]:
        """Return predictions `[B, D]` and the attention over the context positions `[B, T]` (rows sum to 1)."""
        baseline = self.baseline(contexts)  # [B, D]
        keys = self.context_encoder(contexts)  # [B, T, A]
        query = self.query_encoder(baseline).unsqueeze(2)  # [B, A, 1]
        scores = (keys @ query).squeeze(2) / self.config.attention_dim**0.5  # [B, T]
        if self.config.recency:
            scores = scores + self.attention_recency
        attention = scores.softmax(dim=1)
        weighted = (attention.unsqueeze(1) @ contexts).squeeze(1)  # [B, D]
        residual = self.residual_net(torch.cat([baseline, weighted], dim=1))
        return F.normalize(baseline + residual, dim=1), attention

    def forward(self, contexts: Tensor) -> Tensor:
        """Return predictions `[B, D]` for contexts `[B, T, D]`."""
        return self.forward_with_attention(contexts)[0]
