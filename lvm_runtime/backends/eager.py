"""Eager PyTorch: the training form itself, as the reference among the backends."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends.base import Array, Backend
from lvm_runtime.backends.devices import import_torch, inference, to_tensor, torch_device
from lvm_runtime.system.cpus import usable_cpus


class EagerBackend(Backend):
    """Run the training form of the artifact in the folder `source` on MPS, CUDA or the CPU."""

    name: ClassVar[str] = "eager"

    def __init__(self, source: Path, *, device: str = "auto", threads: int | None = None, **options: Any) -> None:
        import_torch()
        from lvm_runtime.models import load_model

        self.device = torch_device(device)
        self.threads = threads or usable_cpus()
        self._model: Any = load_model(Artifact.load(source)).to(self.device)

    def run(self, contexts: Array) -> Array:
        """Return predictions `[b, D]`."""
        with inference(self.device, self.threads):
            return self._model(to_tensor(contexts, self.device)).cpu().numpy()

    def run_with_attention(self, contexts: Array) -> tuple[Array, Array]:
        """Return predictions `[b, D]` and attention `[b, T]`."""
        with inference(self.device, self.threads):
            prediction, attention = self._model.forward_with_attention(to_tensor(contexts, self.device))
            return prediction.cpu().numpy(), attention.cpu().numpy()
