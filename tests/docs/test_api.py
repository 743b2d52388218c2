"""Everything public is on the API page, and its examples run."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path
from types import FunctionType

import numpy as np
import pytest

import lvm_runtime

PAGE = Path(__file__).parents[2] / "docs/api.md"
TEXT = PAGE.read_text(encoding="utf-8")
PUBLIC = re.findall(r"^\.\. auto\w+:: (\S+)", TEXT, re.MULTILINE)
MEMBERS = re.findall(r"^\.\. autoclass:: (\S+)\n   :members: (.+)$", TEXT, re.MULTILINE)


def test_everything_public_is_on_the_page() -> None:
    assert set(lvm_runtime.__all__) <= {name.removeprefix("lvm_runtime.") for name in PUBLIC}


@pytest.mark.parametrize("name", PUBLIC)
def test_examples_run(name: str, guide_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name.startswith("export.coreai."):
        pytest.importorskip("coreai_torch", reason="coreai-torch needs Python 3.11")
    monkeypatch.chdir(guide_folder)
    path, _, attribute = name.rpartition(".")
    module = importlib.import_module(path)
    names = {public: getattr(lvm_runtime, public) for public in lvm_runtime.__all__} | vars(module) | {"np": np}
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for example in finder.find(getattr(module, attribute), attribute, module=False, globs=names):
        runner.run(example, out=report.append)
    assert runner.tries, f"{name} has no example"
    assert not runner.failures, "".join(report)


@pytest.mark.parametrize(("name", "members"), MEMBERS)
def test_each_member_on_the_page_has_an_example(name: str, members: str) -> None:
    module, _, cls = name.rpartition(".")
    owner = getattr(importlib.import_module(module), cls)
    assert [m for m in members.split(", ") if ">>>" not in (getattr(owner, m).__doc__ or "")] == []


@pytest.mark.parametrize("name", ["Predictor", "Batcher"])
def test_each_method_is_on_the_page(name: str) -> None:
    methods = {k for k, v in vars(getattr(lvm_runtime, name)).items() if isinstance(v, FunctionType)}
    assert {k for k in methods if not k.startswith("_")} <= set(dict(MEMBERS)[f"lvm_runtime.{name}"].split(", "))
