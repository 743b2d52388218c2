"""Training forms of the four architectures: the plain modules that everything else is compared with."""

from lvm_runtime.models.build import build_model, known_answers, parameter_count
from lvm_runtime.models.serialisation import load_model, save_model

__all__ = ["build_model", "known_answers", "load_model", "parameter_count", "save_model"]
