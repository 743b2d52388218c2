"""Eager PyTorch: the training form itself, as the reference among the backends."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends.torch_base import TorchBackend


class EagerBackend(TorchBackend):
    """Run the training form of the artifact in the folder `source`."""

    name: ClassVar[str] = "eager"
    format: ClassVar[str | None] = None

    def _load(self, source: Path) -> None:
        from lvm_runtime.models import load_model

        self._model: Any = Artifact.read(source, load_model).to(self.device)

    def _call(self, contexts: Any, attention: bool) -> tuple[Any, ...]:
        return self._model.forward_with_attention(contexts) if attention else (self._model(contexts),)
