"""How busy other programs keep the CPUs while something is timed."""

from __future__ import annotations

import time

import psutil


def seconds_elsewhere() -> float:
    """Return the CPU seconds that all CPUs together have spent on anything but this process, since some moment."""
    spent = psutil.cpu_times()._asdict()
    idle = sum(spent.get(kind, 0.0) for kind in ("idle", "iowait"))
    twice = sum(spent.get(kind, 0.0) for kind in ("guest", "guest_nice"))  # Linux counts them as user and nice too
    return sum(spent.values()) - idle - twice - time.process_time()
