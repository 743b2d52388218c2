"""The losses, against independent sums."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from train.losses import row_losses


def unit(n: int, dim: int, seed: int) -> torch.Tensor:
    """Return unit rows `[n, dim]` in float64's precision, as float32."""
    rows = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(rows, dim=1).float()


def test_mse_is_twice_the_missing_cosine_over_dimensions() -> None:
    p, t = unit(7, 768, 0), unit(7, 768, 1)
    expected = 2 * (1 - F.cosine_similarity(p, t, dim=1)) / 768
    torch.testing.assert_close(row_losses("mse", p, t, 1.0), expected, rtol=1e-5, atol=1e-9)


def test_info_nce_against_explicit_sums() -> None:
    """Of directions: a target's length does not count."""
    p, t = unit(4, 16, 0).double(), unit(4, 16, 1).double()
    lengths = torch.tensor([[0.5], [1.0], [2.0], [3.0]])
    scores = torch.exp(p @ t.T / 0.07)
    own = scores.diagonal()
    expected = -(torch.log(own / scores.sum(1)) + torch.log(own / scores.sum(0))) / 2
    torch.testing.assert_close(row_losses("infonce", p, lengths * t, 0.07).double(), expected, rtol=1e-4, atol=1e-5)
