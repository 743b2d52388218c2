"""The list of the core for `make mutants` fits the checkout; the mutants themselves take minutes to hours."""

from __future__ import annotations

import pytest

from tests.mutants import CORE, ROOT


@pytest.mark.parametrize("module", CORE)
def test_a_module_of_the_core_and_its_tests_are_there(module: str) -> None:
    assert list(ROOT.glob(module))
    assert [test for test in CORE[module] if not (ROOT / test).is_file()] == []
