"""Backends: one thin adapter per runtime, found by name; its framework is imported when it is built."""

from lvm_runtime.backends.base import Backend
from lvm_runtime.backends.registry import BACKENDS, backend_class

__all__ = ["BACKENDS", "Backend", "backend_class"]
