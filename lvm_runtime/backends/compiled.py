"""`torch.compile`: the training form through TorchInductor, compiled when it is built.

Building takes seconds to minutes and a C++ compiler, so it is a peer to measure rather than a default.
"""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends.base import Array, Backend
from lvm_runtime.backends.devices import import_torch, inference, to_tensor, torch_device
from lvm_runtime.errors import BackendUnavailable
from lvm_runtime.system.cpus import usable_cpus


class CompiledBackend(Backend):
    """Run the training form of the artifact in the folder `source`, compiled for any batch size."""

    name: ClassVar[str] = "compiled"

    def __init__(self, source: Path, *, device: str = "auto", threads: int | None = None, **options: Any) -> None:
        self._torch = import_torch()
        from lvm_runtime.models import load_model

        self.device = torch_device(device)
        self.threads = threads or usable_cpus()
        self._lock = threading.Lock()  # a first run of a new shape compiles, and must do so once
        artifact = Artifact.load(source)
        model: Any = load_model(artifact).to(self.device)
        config = artifact.config
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the compiler warns of its own deprecated interfaces
                self._forward = self._torch.compile(model, dynamic=True)
                self._attend = self._torch.compile(getattr(model, "forward_with_attention", None), dynamic=True)
                for batch in (8, 1):  # torch compiles batch 1 by itself
                    self.run(np.zeros((batch, config.context_length, config.dim), np.float32))
        except Exception as error:  # whatever the compiler's tool chain raises
            problem = str(error).strip().splitlines()[0]
            raise BackendUnavailable(f"torch.compile does not work here: {problem}") from error

    def run(self, contexts: Array) -> Array:
        """Return predictions `[b, D]`."""
        with self._lock, inference(self.device, self.threads):
            return self._forward(to_tensor(contexts, self.device)).cpu().numpy()

    def run_with_attention(self, contexts: Array) -> tuple[Array, Array]:
        """Return predictions `[b, D]` and attention `[b, T]`."""
        with self._lock, inference(self.device, self.threads):
            prediction, attention = self._attend(to_tensor(contexts, self.device))
            return prediction.cpu().numpy(), attention.cpu().numpy()
