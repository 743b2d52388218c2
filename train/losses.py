"""The losses that need a batch alone; `ranking` has the one that needs the corpus.

Predictions are already of length 1: that is each model's last step.

b batch, D vector.
"""

from __future__ import annotations

from torch import Tensor, arange
from torch.nn import functional as F


def mse(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return the squared error averaged over dimensions, one value per row `[b]`.

    For unit targets it equals 2 (1 − cosine) / D. Taken on anything but the normalised prediction it would
    reward short vectors.
    """
    return (predictions - targets).square().mean(dim=1)


def info_nce(predictions: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return the symmetric InfoNCE loss with the batch's other rows as negatives, one value per row `[b]`.

    Source: van den Oord et al. 2018, made symmetric as in CLIP (Radford et al. 2021). It asks a prediction to
    differ from the batch's other targets and not to be near its own, so cosine suffers.
    """
    logits = predictions @ F.normalize(targets, dim=1).T / temperature  # [b, b]
    own = arange(len(logits), device=logits.device)
    forward = F.cross_entropy(logits, own, reduction="none")
    backward = F.cross_entropy(logits.T, own, reduction="none")
    return (forward + backward) / 2


def row_losses(name: str, predictions: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return the loss `name` per row `[b]` in float32, whatever autocast made the predictions."""
    predictions, targets = predictions.float(), targets.float()
    return mse(predictions, targets) if name == "mse" else info_nce(predictions, targets, temperature)
