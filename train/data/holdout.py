"""Keep some training documents out of a fit, so that its settings are chosen without touching validation."""

from __future__ import annotations

import numpy as np
import torch

from .windows import WindowSet


def hold_out(windows: WindowSet) -> tuple[WindowSet, WindowSet]:
    """Return the windows to fit on and those of the last tenth of the documents, at least one, to choose by."""
    documents = np.unique(windows.groups)
    border = documents[len(documents) - max(1, len(documents) // 10)]
    held = windows.groups >= border

    def side(mask: np.ndarray) -> WindowSet:
        chosen = torch.from_numpy(mask).to(windows.starts.device)
        return WindowSet(windows.store, windows.starts[chosen], windows.groups[mask], windows.context_length)

    # one document can only judge itself
    return (windows, windows) if held.all() else (side(~held), side(held))
