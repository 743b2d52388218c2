"""Where in its document a prediction points: at the next chunk, or at what it was given.

A reference implementation served models for weeks whose predictions were nearer to the chunk before the last
one (cosine 0.69) than to the next (0.56), while validation cosine looked fine. This profile shows it at once.

n windows, O offsets, T context length.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ..data.windows import WindowSet
from .metrics import Estimate, Predict, bootstrap_all

OFFSETS = (-3, -2, -1, 0, 1, 2, 3)
"""From the last context vector: 0 is that vector, 1 the one to predict."""

NEXT = "+1"
PROFILE_WINDOWS = 1000


@torch.no_grad()
def offset_profile(predict: Predict, windows: WindowSet, doc_ids: NDArray[np.int64]) -> dict[str, Estimate]:
    """Return the mean cosine of predictions to the vectors at each offset, by "-3" … "+3", with intervals.

    Windows are those, of at most 1,000, whose document has a vector at every offset; an offset that less than half
    of them have (+2 and +3 of ready-cut windows) is left out.
    """
    sample = windows.sample(PROFILE_WINDOWS)
    last = sample.starts.cpu().numpy() + sample.context_length - 1
    rows = last[:, None] + np.array(OFFSETS)  # [n, O]
    inside = (rows >= 0) & (rows < len(doc_ids))
    inside &= doc_ids[np.clip(rows, 0, len(doc_ids) - 1)] == doc_ids[last][:, None]
    kept = inside.mean(axis=0) >= 0.5
    complete = inside[:, kept].all(axis=1)
    names = [f"{offset:+d}" if offset else "0" for offset, keep in zip(OFFSETS, kept, strict=True) if keep]
    device = sample.starts.device
    starts, rows = sample.starts[torch.from_numpy(complete).to(device)], rows[complete][:, kept]
    cosines = []
    for begin in range(0, len(starts), 256):
        predictions = predict(sample.batch(starts[begin : begin + 256])[0]).float()
        around = sample.store.rows(torch.from_numpy(rows[begin : begin + 256]).to(device))  # [b, O, D]
        cosines.append(F.cosine_similarity(around, predictions.unsqueeze(1), dim=2).cpu().double().numpy())
    if not cosines:
        return {}
    columns = np.concatenate(cosines)
    return bootstrap_all({name: columns[:, i] for i, name in enumerate(names)}, sample.groups[complete])


def profile_lines(profile: dict[str, Estimate]) -> list[str]:
    """Return the profile in a line, and a warning where a prediction is nearer to the past than to the next chunk."""
    if not profile:
        return []
    lines = ["  cosine by offset from the last vector: " + ", ".join(f"{k} {v.value:.3f}" for k, v in profile.items())]
    return lines + ([f"  {warning}"] if (warning := past_warning(profile)) else [])


def past_warning(profile: dict[str, Estimate]) -> str:
    """Return the warning for a profile whose best offset is not +1 or later, or nothing."""
    past = {name: found for name, found in profile.items() if int(name) <= 0}
    if not past or NEXT not in profile:
        return ""
    best = max(past, key=lambda name: past[name].value)
    if past[best].value <= profile[NEXT].value:
        return ""
    place = "the last vector" if best == "0" else f"the vector at offset {best}"
    return (
        f"WARNING: FITS THE PAST BETTER THAN THE NEXT CHUNK: cosine {past[best].value:.3f} to {place} of the context, "
        f"{profile[NEXT].value:.3f} to the next; a search finds the context first unless it leaves it out"
    )
