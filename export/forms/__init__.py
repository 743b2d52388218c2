"""Deployment forms: the training form's function in fewer operations, by exact algebra."""

from export.forms.base import Form, multiply_adds
from export.forms.build import build_form

__all__ = ["Form", "build_form", "multiply_adds"]
