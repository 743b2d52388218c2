"""What a backend is: a constructor that refuses what it cannot honour, and `run`.

b batch (one of `batch_sizes`, if those are fixed), T context length, D vector.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


class Backend(ABC):
    """One compiled (or eager) model, ready to run on one device.

    The constructor imports its framework and builds the session, and raises BackendUnavailable for a
    missing framework, system or device. Checks of the input, splitting, padding and types are the
    predictor's work and not repeated here.
    """

    name: ClassVar[str]
    device: str
    """Where it really runs, never "auto"."""
    threads: int | None = None
    """Threads for one `run`; None where the runtime does not say."""
    batch_sizes: tuple[int, ...] | None = None
    """The only batch sizes it takes; None for any."""

    @abstractmethod
    def __init__(self, source: Path, *, device: str = "auto", threads: int | None = None, **options: Any) -> None:
        """Load the compiled file at `source` (for the eager backend: the artifact's folder)."""

    @abstractmethod
    def run(self, contexts: Array) -> Array:
        """Return predictions `[b, D]` for contiguous contexts `[b, T, D]`."""

    def run_with_attention(self, contexts: Array) -> tuple[Array, Array]:
        """Return predictions `[b, D]` and attention `[b, T]`; only for models that have attention."""
        raise NotImplementedError(f"{self.name} has no attention output")

    def close(self) -> None:  # noqa: B027 (most backends hold nothing to release)
        """Release what the backend holds; it is not used afterwards."""
