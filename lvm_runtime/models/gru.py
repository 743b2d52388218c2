"""Stack of residual GRU blocks: each block adds a one-layer GRU's output to its input and normalises.

B batch, T context length, D vector, H hidden.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from lvm_runtime.artifact.config import GRUConfig


class GRUBlock(nn.Module):
    """`LayerNorm(x + GRU(x))` on `[B, T, H]`."""

    def __init__(self, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.gru = nn.GRU(hidden_dim, hidden_dim, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output `[B, T, H]`."""
        return self.norm(x + self.dropout(self.gru(x)[0]))


class GRUStack(nn.Module):
    """Map contexts `[B, T, D]` to unit predictions `[B, D]` from the last time step of the last block."""

    def __init__(self, config: GRUConfig) -> None:
        super().__init__()
        self.config = config
        self.input_proj = nn.Linear(config.dim, config.hidden_dim)
        self.blocks = nn.ModuleList(GRUBlock(config.hidden_dim, config.dropout) for _ in range(config.num_layers))
        self.output_proj = nn.Linear(config.hidden_dim, config.dim)

    def forward(self, contexts: Tensor) -> Tensor:
        """Return predictions `[B, D]` for contexts `[B, T, D]`."""
        x = self.input_proj(contexts)  # [B, T, H]
        for block in self.blocks:
            x = block(x)
        return F.normalize(self.output_proj(x[:, -1]), dim=1)
