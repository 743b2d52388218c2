"""Core ML forms: the four architectures rewritten for the Neural Engine, equal to the training forms in float64."""

from .build import coreml_form

__all__ = ["coreml_form"]
