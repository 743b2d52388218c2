"""What this process may use of the machine: its share of the CPUs, not the host's core count."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_SELF = Path("/proc/self/cgroup")


def usable_cpus() -> int:
    """Return how many CPUs this process can keep busy: its affinity, cut to the container's CPU quota.

    A quota of 2.5 CPUs counts as 2: a third thread would be stopped for half of every period, and the
    other two would wait for it.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota()
    return affinity if quota is None else max(1, min(affinity, int(quota)))


def most_threads() -> int:
    """Return how many threads one run may be asked to use: twice the machine's CPUs, and 64 anywhere."""
    return max(64, 2 * (os.cpu_count() or 1))


def cgroup_quota(root: Path = _CGROUP, membership: Path = _SELF) -> float | None:
    """Return the CPU quota in CPUs that the control groups (v2 or v1) set for this process, None for no limit.

    The limit of a group binds everything below it, so the smallest one on the way up counts.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            base, read = root, _quota_v2
        elif "cpu" in controllers.split(","):
            base, read = root / "cpu", _quota_v1
        else:
            continue
        group = base / path.lstrip("/")
        quotas += [read(folder) for folder in (group, *group.parents) if folder == base or base in folder.parents]
    return min((q for q in quotas if q is not None), default=None)


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 else None
