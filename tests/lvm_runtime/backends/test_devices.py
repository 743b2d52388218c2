"""Settings of torch that the whole process shares, while runs with different numbers of threads are under way."""

from __future__ import annotations

import threading
import time

import torch

from lvm_runtime.backends.devices import inference


def test_torch_keeps_its_threads_whoever_runs_beside() -> None:
    def of_a_new_thread() -> int:
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        return found[0]

    before, here = of_a_new_thread(), torch.get_num_threads()
    wrong: list[tuple[int, int]] = []

    def run(count: int) -> None:
        for _ in range(100):
            with inference("cpu", count):
                time.sleep(0.0002)
                if torch.get_num_threads() != count:
                    wrong.append((count, torch.get_num_threads()))
            if torch.get_num_threads() != before:
                wrong.append((before, torch.get_num_threads()))

    threads = [threading.Thread(target=run, args=(before + more,)) for more in (0, 1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert (of_a_new_thread(), torch.get_num_threads()) == (before, here)
