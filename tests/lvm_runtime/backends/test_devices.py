"""Settings of torch that the whole process shares: they change no answer, and no Predictor changes them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from lvm_runtime import Predictor
from lvm_runtime.backends.devices import inference
from tests.artifacts import make_artifact


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


@contextmanager
def lowered_for_one_kind() -> Iterator[None]:
    """Lower the precision by a setting of torch 2.9, for which `get_float32_matmul_precision` raises."""
    kind = getattr(torch.backends.mkldnn, "matmul", None)
    if kind is None:
        pytest.skip("this torch has one setting for all hardware")
    before, kind.fp32_precision = kind.fp32_precision, "bf16"
    try:
        yield
    finally:
        kind.fp32_precision = before


@contextmanager
def medium() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    "lowered",
    [lambda: torch.autocast("cpu", dtype=torch.bfloat16), medium, lowered_for_one_kind],
    ids=["autocast", "medium", "one-kind"],
)
def test_float32_is_multiplied_in_float32_whatever_torch_was_told(lowered: Callable[[], Any]) -> None:
    a, b = torch.randn(2, 256, 256, generator=torch.Generator().manual_seed(0))
    exact = a @ b
    with lowered():
        torch_says = torch.is_autocast_enabled("cpu"), (a @ b).dtype, _precision()
        with inference("cpu", 1), inference("cpu", 1):
            inside, precision = a @ b, _precision()
        with inference("cpu", 1):
            again = a @ b
        assert (torch.is_autocast_enabled("cpu"), (a @ b).dtype, _precision()) == torch_says
    torch.testing.assert_close(inside, exact, rtol=0, atol=0)
    torch.testing.assert_close(again, exact, rtol=0, atol=0)
    assert precision in ("highest", "ieee")


def _precision() -> str:
    kind = getattr(torch.backends.mkldnn, "matmul", None)
    return torch.get_float32_matmul_precision() if kind is None else str(kind.fp32_precision).replace("none", "ieee")


def test_an_eager_predictor_leaves_the_random_state_alone(tmp_path: Path) -> None:
    make_artifact(tmp_path / "amn", onnx=False)
    before = torch.random.get_rng_state()
    Predictor(tmp_path / "amn", backend="eager").close()
    assert torch.equal(torch.random.get_rng_state(), before)
