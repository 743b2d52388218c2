"""Predict the next vector of a document: one `predict()` over every compiled form of a model.

Importing this package loads numpy and nothing heavier; a backend loads its framework when it is built.
"""

from lvm_runtime.errors import ArtifactError, BackendUnavailable, InvalidInput, LvmError, VerificationFailed
from lvm_runtime.predictor import Predictor

__all__ = ["ArtifactError", "BackendUnavailable", "InvalidInput", "LvmError", "Predictor", "VerificationFailed"]
__version__ = "0.1.0"
