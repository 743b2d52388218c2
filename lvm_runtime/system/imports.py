"""Imports in a process that was forked.

Of what another thread was importing, the child has a part, and a lock which nobody will release: Python would wait for
ever. Of a module that was there, it has all but the threads.
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
    """Say whether this thread forked the process with the module `name`, whose threads for it are not here then.

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
