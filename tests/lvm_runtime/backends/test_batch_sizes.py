"""The cheapest mix of batch sizes."""

from __future__ import annotations

import itertools

import pytest

from lvm_runtime.backends.batch_sizes import DISPATCH, plan_batches

SIZES = (1, 8, 32, 128)
PLANS = {0: (), 1: (1,), 2: (8,), 7: (8,), 8: (8,), 9: (8, 1), 33: (32, 1), 120: (128,), 129: (128, 1)}


@pytest.mark.parametrize("rows", PLANS)
def test_known_plans(rows: int) -> None:
    assert tuple(size for size, _ in plan_batches(rows, SIZES)) == PLANS[rows]


@pytest.mark.parametrize("sizes", [SIZES, (3,), (2, 5, 7), (128,)], ids=str)
def test_every_row_is_covered_once(sizes: tuple[int, ...]) -> None:
    for rows in (*range(1, 40), 127, 256, 1000, 1001):
        plan = plan_batches(rows, sizes)
        assert sum(used for _, used in plan) == rows
        assert all(0 < used <= size and size in sizes for size, used in plan)


def test_no_other_mix_is_cheaper() -> None:
    sizes = (1, 3, 8)
    for rows in range(1, 20):
        best = min(
            sum(DISPATCH + size for size in mix)
            for count in range(1, 5)
            for mix in itertools.combinations_with_replacement(sizes, count)
            if sum(mix) >= rows
        )
        assert sum(DISPATCH + size for size, _ in plan_batches(rows, sizes)) == best
