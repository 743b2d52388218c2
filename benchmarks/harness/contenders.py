"""Everything that is measured: the forms this project serves, and the peers they have to beat."""

from __future__ import annotations

from functools import cache

from benchmarks.harness.contender import Contender
from benchmarks.harness.ours import OURS
from benchmarks.harness.peers import PEERS

CONTENDERS = (*OURS, *PEERS)
"""Every known contender, whether or not this machine can run it."""


@cache
def available() -> tuple[Contender, ...]:
    """Return the contenders that this machine can run."""
    return tuple(c for c in CONTENDERS if c.missing() is None)


def not_measured() -> dict[str, str]:
    """Return the reason for every contender that cannot run here; missing is not slow."""
    return {c.name: reason for c in CONTENDERS if (reason := c.missing()) is not None}


def contender(name: str) -> Contender:
    """Return the contender called `name`."""
    return next(c for c in CONTENDERS if c.name == name)
