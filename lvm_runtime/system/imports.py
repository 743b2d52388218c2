"""Imports in a process that was forked.

Of what another thread was importing, the child has a part, and a lock which nobody will release: Python would wait for
ever. Of a module that was there, it has all but the threads.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from types import ModuleType

from lvm_runtime.errors import LvmError

_cut_short: set[str] = set()
_inherited: set[str] = set()


def load(name: str) -> ModuleType:
    """Import the module `name`; LvmError if another thread was importing it when this process was forked."""
    if name in _cut_short:
        raise LvmError(
            f"this process was forked while another thread imported {name}, which it can now never use; "
            f"import {name} before the fork, or fork before any thread imports it"
        )
    return import_module(name)


def inherited(name: str) -> bool:
    """Say whether the module `name` was imported before this process was forked, so that its threads may be missing.

    >>> inherited("numpy")
    False
    """
    return name in _inherited


def _note_fork() -> None:
    for name, module in sys.modules.copy().items():
        _inherited.add(name)
        if getattr(getattr(module, "__dict__", {}).get("__spec__"), "_initializing", False):
            _cut_short.add(name)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
