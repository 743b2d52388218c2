"""Imports of frameworks, and of modules that import them: in a fork, and where Ctrl-C comes meanwhile.

If another thread was importing a module at the fork, the child has a part of the module, and a lock that nobody will
release: importing it there would wait for ever. A module that was imported before the fork is whole in the child, but
the threads that it had started are not there. If Ctrl-C stops the import of a compiled module, that raises ImportError,
and so does every later import of it in this process.
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

    Whatever else stops it is an ImportError, such as the OSError of a library that lacks another one. Ctrl-C takes
    effect when it is imported, and a second one at once.
    """
    if name in _cut_short:
        raise LvmError(
            f"this process was forked while another thread imported {name}, which it can now never use; "
            f"import {name} before the fork, or fork before any thread imports it"
        )
    there = sys.modules.get(name)
    if there is not None and not _is_being_imported(there):
        return there  # each run on torch comes here, and the guard takes as long as a small model
    with _interrupted_afterwards():
        try:
            return import_module(name)
        except (ImportError, LvmError, MemoryError):
            raise
        except Exception as error:
            raise ImportError(f"{type(error).__name__}: {error}", name=name) from error


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
    """Say whether the module `name` was there when this thread forked the process: its threads are in the parent.

    >>> inherited("numpy")
    False
    """
    return _inherited.get(name) == get_ident()


def forked_with(name: str) -> bool:
    """Say whether the module `name` was there when this process was forked, by whichever of its threads.

    >>> forked_with("numpy")
    False
    """
    return name in _inherited


def _note_fork() -> None:
    for name, module in sys.modules.copy().items():
        _inherited[name] = get_ident()
        if _is_being_imported(module):
            _cut_short.add(name)


def _is_being_imported(module: object) -> bool:
    return bool(getattr(getattr(module, "__dict__", {}).get("__spec__"), "_initializing", False))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
