"""The integer limit: dot products in registers alone, on every CPU at once, by the native engine's own kernel."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

from lvm_runtime.system.cpus import usable_cpus

BURSTS = 10
"""In each round: other programs take a CPU from most bursts of a busy machine, and no burst is above the limit."""


def integer_limit(rounds: int, seconds: float) -> dict[str, float]:
    """Return the best rate of the bursts of all rounds, in 10⁹ multiply-adds a second, by the name of the instructions.

    Empty where the engine is not built. All CPUs multiply at once; a burst ends with the last of them.
    """
    if find_spec("lvm_runtime.native._engine") is None:
        return {}
    from lvm_runtime.native import _engine

    threads, path = usable_cpus(), _engine.paths()[0]
    with ThreadPoolExecutor(threads) as pool:

        def burst(turns: int) -> tuple[int, float]:
            began = time.perf_counter()
            done = sum(pool.map(_engine.spin, [path] * threads, [turns] * threads))
            return done, time.perf_counter() - began

        turns = 1000
        while min(burst(turns)[1] for _ in range(3)) < seconds:
            turns *= 2
        rates = [done / took / 1e9 for done, took in (burst(turns) for _ in range(BURSTS * rounds))]
    return {f"registers, {path}": max(rates)}
