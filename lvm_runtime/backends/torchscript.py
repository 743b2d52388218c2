"""TorchScript: a traced module that needs PyTorch and none of this project's model code.

The file holds code. It is checked before it is loaded, and `backend="auto"` still never takes it: ask for it by name.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, ClassVar

from lvm_runtime.backends.torch_base import TorchBackend
from lvm_runtime.backends.torchscript_file import checked_module
from lvm_runtime.errors import ArtifactError, one_line


class TorchScriptBackend(TorchBackend):
    """Run a TorchScript file; it returns the prediction, or the prediction and the attention for the AMN."""

    name: ClassVar[str] = "torchscript"
    format: ClassVar[str | None] = "torchscript"
    holds_code: ClassVar[bool] = True

    def _load(self, source: Path) -> None:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "`torch.jit")  # torch deprecates TorchScript; files exist
                self._module: Any = self._torch.jit.load(checked_module(source), map_location=self.device).eval()
        except RuntimeError as error:
            raise ArtifactError(f"{source}: PyTorch cannot load it: {one_line(error, 300)}") from error

    def _call(self, contexts: Any, attention: bool) -> tuple[Any, ...]:
        outputs = self._module(contexts)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return outputs if attention else outputs[:1]
