"""The list of the core for `make mutants` fits the checkout; the mutants themselves take minutes to hours."""

from __future__ import annotations

import pytest

from tests.mutants import CORE, ROOT, Score, overall, try_module, wilson


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


@pytest.mark.soak
def test_a_module_that_no_test_calls_has_no_mutant_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = "lvm_runtime/artifact/json_text.py"
    monkeypatch.setitem(CORE, module, ("tests/train/evaluation/test_metrics.py",))
    score = try_module(module, 1, 2, 0)
    assert (score.tried, score.noticed) == (2, 0)
    assert (
        capsys.readouterr().out == f"{module}: 0 of 2 noticed, because no test that CORE lists for it calls any of it\n"
    )
