"""Handlers of forks that run before those of other modules.

Python calls the handler that was registered last first. Some modules hold a lock during a fork, `logging` for example.
Our handler waits for our threads, and one of them may need that lock to finish. If the module's handler ran first, both
would wait for each other.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple


class _Handlers(NamedTuple):
    before: Callable[[], object]
    after_in_parent: Callable[[], object]
    after_in_child: Callable[[], object]


_handlers: list[_Handlers] = []


def handle_forks(
    before: Callable[[], object], after_in_parent: Callable[[], object], after_in_child: Callable[[], object]
) -> None:
    """Call these around every fork from now on. Each must do no harm if it is called more than once in a row."""
    _handlers.append(_Handlers(before, after_in_parent, after_in_child))
    _register(_handlers[-1])


@functools.cache
def ahead_of(name: str) -> Any:
    """Import the module `name`, which handles forks itself, and return it; our handlers run before its own.

    >>> ahead_of("filelock").FileLock.__name__
    'UnixFileLock'
    """
    module = import_module(name)
    for handlers in _handlers:
        _register(handlers)
    return module


def _register(handlers: _Handlers) -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(**handlers._asdict())
