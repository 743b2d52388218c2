"""Predict the next vector of a document: one `predict()` over every compiled form of a model.

What is listed in `__all__` is public and stays; anything else may move between versions. Importing this package loads
nothing else: a public name is loaded when it is first used, `Predictor` with numpy, and a backend loads its framework
when it is built.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lvm_runtime.artifact.folder import Artifact
    from lvm_runtime.batcher import Batcher
    from lvm_runtime.bulk.predict import BulkResult, predict_file
    from lvm_runtime.errors import (
        ArtifactError,
        BackendUnavailable,
        InvalidInput,
        LvmError,
        VerificationFailed,
        WriteFailed,
    )
    from lvm_runtime.predictor import Predictor
    from lvm_runtime.request import Request
    from lvm_runtime.selection.explanation import Explanation

__all__ = [
    "Artifact",
    "ArtifactError",
    "BackendUnavailable",
    "Batcher",
    "BulkResult",
    "Explanation",
    "InvalidInput",
    "LvmError",
    "Predictor",
    "Request",
    "VerificationFailed",
    "WriteFailed",
    "predict_file",
]
__version__ = "0.1.0"

_HOMES = {
    "Artifact": "artifact.folder",
    "Batcher": "batcher",
    "BulkResult": "bulk.predict",
    "Explanation": "selection.explanation",
    "Predictor": "predictor",
    "Request": "request",
    "predict_file": "bulk.predict",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
