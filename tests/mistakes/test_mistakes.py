"""The list of mistakes fits the code and the page; `python -m tests.mistakes` plants them, which takes minutes."""

from __future__ import annotations

import ast
import re

import pytest

from tests.mistakes.__main__ import ROOT, listed, planted
from tests.mistakes.mistake import Mistake

MISTAKES = [mistake for mistakes in listed().values() for mistake in mistakes]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_mistake_still_has_its_place_and_its_test(mistake: Mistake, request: pytest.FixtureRequest) -> None:
    ast.parse(planted((ROOT / mistake.file).read_text(), mistake))
    file, _, test = mistake.noticed_by.partition("::")
    assert f"def {test.partition('[')[0]}(" in (ROOT / file).read_text()
    function = mistake.noticed_by.partition("[")[0]
    collected = [item.nodeid for item in request.session.items if item.nodeid.partition("[")[0] == function]
    assert not collected or function == mistake.noticed_by or mistake.noticed_by in collected


def test_page_says_of_each_kind_what_goes_wrong_and_gives_one_of_its_mistakes() -> None:
    page = (ROOT / "docs/mistakes.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| .+ \| (.+) \|$", page, re.MULTILINE))
    assert set(rows) == set(listed())
    names = {kind: {mistake.name for mistake in mistakes} for kind, mistakes in listed().items()}
    assert [kind for kind, example in rows.items() if example not in names[kind]] == []
