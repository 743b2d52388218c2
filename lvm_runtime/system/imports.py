"""Imports of frameworks, and of modules that import them: in a fork, and where Ctrl-C comes meanwhile.

Of what another thread was importing, a fork has a part, and a lock which nobody will release: Python would wait for
ever. Of a module that was there, it has all but the threads. A compiled module that Ctrl-C stops says that it cannot be
imported, and cannot be from then on.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from threading import current_thread, get_ident, main_thread
from types import ModuleType

from lvm_runtime.errors import LvmError

_cut_short: set[str] = set()
_inherited: dict[str, int] = {}  # modules that were there when this process was forked, and the thread that did it


def load(name: str) -> ModuleType:
    """Import the module `name`; LvmError if another thread was importing it when this process was forked.

    Ctrl-C takes effect when it is imported, and a second one at once.
    """
    if name in _cut_short:
        raise LvmError(
            f"this process was forked while another thread imported {name}, which it can now never use; "
            f"import {name} before the fork, or fork before any thread imports it"
        )
    with _interrupted_afterwards():
        return import_module(name)


@contextmanager
def _interrupted_afterwards() -> Iterator[None]:
    """Put Ctrl-C off until the body has ended, where it would raise KeyboardInterrupt, and raise that then."""
    usual = signal.default_int_handler
    if current_thread() is not main_thread() or signal.getsignal(signal.SIGINT) is not usual:
        yield
        return
    pressed = 0

    def note(number: int, frame: object) -> None:
        nonlocal pressed
        pressed += 1
        if pressed > 1:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is note:  # and not one that the framework brought along
            signal.signal(signal.SIGINT, usual)
        if pressed:
            raise KeyboardInterrupt


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
