"""TorchScript: a traced module that needs PyTorch and none of this project's model code.

The file holds code. It is checked before it is loaded, and `backend="auto"` still never takes it: ask for it by name.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, ClassVar

from lvm_runtime.backends.base import Array, Backend
from lvm_runtime.backends.devices import import_torch, inference, to_tensor, torch_device
from lvm_runtime.backends.torchscript_file import checked_module
from lvm_runtime.errors import ArtifactError
from lvm_runtime.system.cpus import usable_cpus


class TorchScriptBackend(Backend):
    """Run a TorchScript file; it returns the prediction, or the prediction and the attention for the AMN."""

    name: ClassVar[str] = "torchscript"

    def __init__(self, source: Path, *, device: str = "auto", threads: int | None = None, **options: Any) -> None:
        self._torch = import_torch()
        self.device = torch_device(device)
        self.threads = threads or usable_cpus()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # torch deprecates TorchScript; files exist
                self._module: Any = self._torch.jit.load(checked_module(source), map_location=self.device).eval()
        except RuntimeError as error:
            raise ArtifactError(f"{source}: PyTorch cannot load it: {str(error).splitlines()[0]}") from error

    def _outputs(self, contexts: Array) -> list[Array]:
        with inference(self.device, self.threads):
            outputs = self._module(to_tensor(contexts, self.device))
            return [o.cpu().numpy() for o in (outputs if isinstance(outputs, tuple) else (outputs,))]

    def run(self, contexts: Array) -> Array:
        """Return predictions `[b, D]`."""
        return self._outputs(contexts)[0]

    def run_with_attention(self, contexts: Array) -> tuple[Array, Array]:
        """Return predictions `[b, D]` and attention `[b, T]`."""
        prediction, attention = self._outputs(contexts)
        return prediction, attention
