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
from lvm_runtime.backends.base import Array
from lvm_runtime.backends.torch_base import TorchBackend
from lvm_runtime.errors import BackendUnavailable, one_line


class CompiledBackend(TorchBackend):
    """Run the training form of the artifact in the folder `source`, compiled for any batch size."""

    name: ClassVar[str] = "compiled"
    format: ClassVar[str | None] = None
    slow_to_build: ClassVar[bool] = True

    def _load(self, source: Path) -> None:
        from lvm_runtime.models import load_model

        self._lock = threading.Lock()  # a first run of a new shape compiles, and must do so once
        model: Any = Artifact.read(source, load_model).to(self.device)
        config = model.config
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the compiler warns of its own deprecated interfaces
                self._forward = self._torch.compile(model, dynamic=True)
                self._attend = self._torch.compile(getattr(model, "forward_with_attention", None), dynamic=True)
                for batch in (8, 1):  # torch compiles batch 1 by itself
                    self.run(np.zeros((batch, config.context_length, config.dim), np.float32))
        except Exception as error:  # whatever the compiler's tool chain raises
            raise BackendUnavailable(f"torch.compile does not work here: {one_line(error, 300)}") from error

    def _outputs(self, contexts: Array, attention: bool) -> list[Array]:
        with self._lock:
            return super()._outputs(contexts, attention)

    def _call(self, contexts: Any, attention: bool) -> tuple[Any, ...]:
        return self._attend(contexts) if attention else (self._forward(contexts),)
