"""Imports in a process that was forked.

If another thread was importing a module at the fork, the child has a part of the module, and a lock that nobody will
release: importing it there would wait for ever. A module that was imported before the fork is whole in the child, but
the threads that it had started are not there.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from threading import get_ident
from types import ModuleType

from lvm_runtime.errors import LvmError

_cut_short: set[str] = set()
_inherited: dict[str, int] = {}  # modules that were there when this process was forked, and the thread that did it


def load(name: str) -> ModuleType:
    """Import the module `name`; LvmError if another thread was importing it when this process was forked."""
    if name in _cut_short:
        raise LvmError(
            f"this process was forked while another thread imported {name}, which it can now never use; "
            f"import {name} before the fork, or fork before any thread imports it"
        )
    return import_module(name)


def inherited(name: str) -> bool:
    """Say whether the module `name` was there when this thread forked the process: its threads are in the parent.

    >>> inherited("numpy")
    False
    """
    return _inherited.get(name) == get_ident()


def _note_fork() -> None:
    for name, module in sys.modules.copy().items():
        _inherited[name] = get_ident()
        if getattr(getattr(module, "__dict__", {}).get("__spec__"), "_initializing", False):
            _cut_short.add(name)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
