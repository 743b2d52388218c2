"""Deployment forms: the training form's function in fewer operations, by exact algebra."""

from .base import Form, multiply_adds
from .build import build_form

__all__ = ["Form", "build_form", "multiply_adds"]
