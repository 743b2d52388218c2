"""The guide's Python blocks run, its front page stays short, and its links lead somewhere."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lvm_runtime.backends import BACKENDS, backend_class
from lvm_runtime.commands.main import build_parser

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [
    README,
    *(DOCS / name for name in ("index.md", "tutorial.md", "artifact.md")),
    *sorted((DOCS / "how-to").glob("*.md")),
]
OUTSIDE = [README, ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/README.md"]


def python_blocks(page: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, code) of the page's Python blocks; one below `% runs on macOS` counts there only."""
    text = page.read_text(encoding="utf-8")
    for block in re.finditer(r"^(% runs on macOS\n+)?```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if block[1] is None or sys.platform == "darwin":
            yield text.count("\n", 0, block.start(2)), block[2]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_blocks_of_a_page_run_in_order(page: Path, guide_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page.stem in BACKENDS and (problem := backend_class(page.stem).missing()):
        pytest.skip(problem)
    monkeypatch.chdir(guide_folder)
    names: dict[str, Any] = {"__name__": "guide"}
    for line, code in python_blocks(page):
        exec(compile("\n" * line + code, str(page), "exec"), names)  # the padding makes errors name the page's line


def test_blocks_are_found_and_keep_their_line() -> None:
    line, code = next(python_blocks(README))
    assert README.read_text(encoding="utf-8").splitlines()[line] == code.splitlines()[0] == "import numpy as np"


def test_every_variable_of_the_environment_is_listed() -> None:
    files = [file for name in ("lvm_runtime", "train", "export") for file in (ROOT / name).rglob("*.py")]
    read = {name for file in files for name in re.findall(r"\bLVM_[A-Z_]+\b", file.read_text(encoding="utf-8"))}
    rows = re.findall(r"^\| `(LVM_[A-Z_]+)` \|", (DOCS / "commands.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(read) == rows


def test_the_readme_is_short_and_its_table_has_sixteen_figures_at_most() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 130
    table = text.partition("<!-- benchmarks -->")[2].partition("<!-- /benchmarks -->")[0]
    rows = [line.split("|")[2:-1] for line in table.splitlines() if line.startswith("|")][2:]  # less head and rule
    assert 0 < sum(bool(re.search(r"\d", cell)) for row in rows for cell in row) <= 16


@pytest.mark.parametrize("page", OUTSIDE, ids=lambda page: page.name)
def test_links_of_pages_outside_the_built_documentation_resolve(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_every_command_is_on_its_page() -> None:
    commands = re.findall(r"^    ([a-z][\w-]*)(?: |$)", build_parser().format_help(), re.MULTILINE)
    listed = re.findall(r"^\| `([\w-]+)` \|", (DOCS / "commands.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert commands
    assert set(commands) <= set(listed)
