"""The list of the core for `make mutants` fits the checkout; the mutants themselves take minutes to hours."""

from __future__ import annotations

import pytest

from tests.mutants import CORE, ROOT, Score, overall, wilson


@pytest.mark.parametrize("module", CORE)
def test_a_module_of_the_core_and_its_tests_are_there(module: str) -> None:
    assert list(ROOT.glob(module))
    assert [test for test in CORE[module] if not (ROOT / test).is_file()] == []


def test_interval_of_a_sample_is_wilsons() -> None:
    assert wilson(0.9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-4)  # 9 of 10
    assert wilson(1.0, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)


def test_modules_count_by_their_mutants() -> None:
    share, draws = overall([Score(300, 20, 20), Score(100, 20, 10)])
    assert share == pytest.approx(0.875)
    assert draws == pytest.approx(1 / (0.75**2 / 20 + 0.25**2 / 20))
    assert overall([Score(50, 50, 45)]) == pytest.approx((0.9, 50))
