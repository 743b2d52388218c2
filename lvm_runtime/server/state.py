"""What the two sides of the server share."""

from __future__ import annotations

from dataclasses import dataclass

from lvm_runtime.server.metrics import Metrics
from lvm_runtime.server.models import Models
from lvm_runtime.server.options import ServerOptions


@dataclass(slots=True)
class State:
    """The models, the options, the metrics, and whether the server was told to stop."""

    options: ServerOptions
    models: Models
    metrics: Metrics
    stopping: bool = False

    @property
    def ready(self) -> bool:
        """Whether new requests are welcome."""
        return self.models.ready and not self.stopping
