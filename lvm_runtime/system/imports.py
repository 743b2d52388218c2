"""Imports in a process that was forked while another thread imported.

The child has the module as far as it had come, and its lock, which nobody will release: Python would wait for ever.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from types import ModuleType

from lvm_runtime.errors import LvmError

_cut_short: set[str] = set()


def load(name: str) -> ModuleType:
    """Import the module `name`; LvmError if another thread was importing it when this process was forked."""
    if name in _cut_short:
        raise LvmError(
            f"this process was forked while another thread imported {name}, which it can now never use; "
            f"import {name} before the fork, or fork before any thread imports it"
        )
    return import_module(name)


def _note_cut_short() -> None:
    for name, module in sys.modules.copy().items():
        if getattr(getattr(module, "__dict__", {}).get("__spec__"), "_initializing", False):
            _cut_short.add(name)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_cut_short)
