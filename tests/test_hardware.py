"""The share of the machine that a container may use."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lvm_runtime import Predictor, hardware
from lvm_runtime.hardware import CPU_BUDGET, CpuBudget, cgroup_quota, usable_cpus
from tests.artifacts_for_tests import some_contexts


def _groups(tmp_path: Path, membership: str, files: dict[str, str]) -> tuple[Path, Path]:
    root = tmp_path / "cgroup"
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    own = tmp_path / "self"
    own.write_text(membership)
    return root, own


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2.0),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000\n", "cpu.max": "50000 100000\n"}, 0.5),
        ("0::/a\n", {"a/cpu.max": "max 100000\n"}, None),
        ("0::/gone\n", {}, None),
        (
            "4:memory:/a\n3:cpu,cpuacct:/a\n0::/\n",
            {"cpu/a/cpu.cfs_quota_us": "300000\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
            3.0,
        ),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
    ],
    ids=["v2", "v2 parent", "v2 root is smaller", "v2 unlimited", "no files", "v1", "v1 unlimited"],
)
def test_the_smallest_quota_on_the_way_up_counts(
    tmp_path: Path, membership: str, files: dict[str, str], quota: float | None
) -> None:
    assert cgroup_quota(*_groups(tmp_path, membership, files)) == quota


def test_no_control_groups_no_quota(tmp_path: Path) -> None:
    assert cgroup_quota(tmp_path, tmp_path / "missing") is None


@pytest.mark.parametrize(("quota", "cpus"), [(None, 4), (2.5, 2), (0.3, 1), (64.0, 4)], ids=str)
def test_affinity_cut_to_the_quota(monkeypatch: pytest.MonkeyPatch, quota: float | None, cpus: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)), raising=False)
    monkeypatch.setattr(hardware, "cgroup_quota", lambda: quota)
    assert usable_cpus() == cpus


def test_affinity_of_this_process_is_respected() -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no CPU affinity")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cpus() == 1
    finally:
        os.sched_setaffinity(0, before)


def _in_threads(works: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


@pytest.mark.parametrize("counts", [[1], [4], [1, 2, 3, 4], [0, 4]], ids=str)
def test_no_more_than_all_cpus_are_taken_at_once(counts: list[int]) -> None:
    budget, lock = CpuBudget(4), threading.Lock()
    taken, peak = 0, 0

    def work(count: int) -> None:
        nonlocal taken, peak
        for _ in range(20):
            budget.acquire(count)
            with lock:
                taken += count
                peak = max(peak, taken)
            time.sleep(0)
            with lock:
                taken -= count
            budget.release(count)

    _in_threads([lambda c=c: work(c) for c in counts * 4])  # type: ignore[misc]
    assert 1 <= peak <= 4
    budget.acquire(4)  # everything was given back


def test_the_line_is_first_come_first_served() -> None:
    budget, order = CpuBudget(2), []
    budget.acquire(1)

    def ask(count: int) -> None:
        budget.acquire(count)
        order.append(count)
        budget.release(count)

    threads = []
    for waiting, count in enumerate((2, 1)):  # the second would fit at once, and must not pass the first
        threads.append(threading.Thread(target=ask, args=(count,)))
        threads[-1].start()
        while len(budget._line) <= waiting:
            time.sleep(0.001)
    budget.release(1)
    for thread in threads:
        thread.join(30)
    assert order == [2, 1]


def test_two_predictors_together_keep_within_the_cpus(
    small_artifacts: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = threading.Lock()
    busy, peak = 0, 0
    predictors = [Predictor(small_artifacts(name), backend="onnx") for name in ("gru", "amn")]

    def watched(run: Callable[[Any], Any], threads: int) -> Callable[[Any], Any]:
        def watching(contexts: Any) -> Any:
            nonlocal busy, peak
            with lock:
                busy += threads
                peak = max(peak, busy)
            try:
                return run(contexts)
            finally:
                with lock:
                    busy -= threads

        return watching

    for predictor in predictors:
        backend = predictor._open_routes().large.backend
        monkeypatch.setattr(backend, "run", watched(backend.run, backend.threads or 0))
    contexts = some_contexts(64)
    _in_threads([lambda p=p: [p.predict(contexts) for _ in range(20)] for p in predictors * 4])  # type: ignore[misc]
    assert 1 <= peak <= CPU_BUDGET.cpus
