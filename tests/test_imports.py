"""The import graph: no circle, every import runs down, the packages import one way, and `import lvm_runtime` is light.

Imports inside functions and under TYPE_CHECKING count.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "lvm_runtime": {"lvm_runtime"},
    "train": {"train", "lvm_runtime"},
    "export": {"export", "lvm_runtime"},
    "benchmarks": {"benchmarks", "train", "export", "lvm_runtime"},
}
"""Package to the packages that it may import."""

ORDER = {
    "lvm_runtime": """errors arguments system artifact contexts corpus models coreml native backends request selection
        batcher predictor bulk text retrieval . server integrations commands __main__""",
    "train": """options terminal distributed data losses ranking recurrent forward evaluation warm_start ranked_start
        prepared_data loop checkpoint provenance report run foreign_checkpoint import_checkpoint embed diagnose compare
        __main__ all .""",
    "export": """randomise source windows search_check verify norms forms mil_reference ane_lint commandline torchscript
        onnx native mlx triton coreml coreai formats mac_report __main__ .""",
    "benchmarks": "limits harness report conftest test .",
}
"""Rooms of each package from the ground up; `.` is the package itself. A room imports those before it, and itself."""


def _modules() -> dict[str, Path]:
    found = {}
    for package in ALLOWED:
        for file in (ROOT / package).rglob("*.py"):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = _modules()


def _imports(module: str, file: Path) -> set[str]:
    """Return the modules of this repository that a module imports anywhere in its text."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {name if (name := f"{base}.{alias.name}") in MODULES else base for alias in node.names}
    return {name for name in found if name in MODULES and name != module}


GRAPH = {module: _imports(module, file) for module, file in MODULES.items()}


def _room(module: str) -> str:
    package, _, rest = module.partition(".")
    room = rest.partition(".")[0] or "."
    return "test" if package == "benchmarks" and room.startswith("test_") else room


def test_there_is_no_circle() -> None:
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(reversed(error.args[1]))}")


@pytest.mark.parametrize("package", ORDER)
def test_the_design_page_lists_the_modules_in_this_order(package: str) -> None:
    text = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| `{package}` \| (.*) \|$", text, re.MULTILINE)
    assert row is not None
    listed = re.findall(r"`(\w+)`", row[1])
    known = [name for name in ORDER[package].split() if name != "."]
    assert listed == known[: len(listed)]
    assert len(listed) == len(known) - 1 or "then" in row[1]  # all but __main__


def test_packages_import_one_way() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, names in GRAPH.items()
        for name in names
        if name.partition(".")[0] not in ALLOWED[module.partition(".")[0]]
    ]
    assert not wrong


@pytest.mark.parametrize("package", ORDER)
def test_every_import_runs_down(package: str) -> None:
    order = ORDER[package].split()
    own = {module: names for module, names in GRAPH.items() if module.partition(".")[0] == package}
    assert {_room(module) for module in own} == set(order), "the list of rooms is not that of the folders"
    wrong = [
        f"{module} imports {name}"
        for module, names in own.items()
        for name in names
        if name.partition(".")[0] == package and order.index(_room(name)) > order.index(_room(module))
    ]
    assert not wrong


def test_the_runtime_names_the_others_only_in_its_table_of_commands() -> None:
    naming = [
        name for name, file in MODULES.items() if name.startswith("lvm_runtime") and '"train.' in file.read_text()
    ]
    assert naming == ["lvm_runtime.commands.train_and_export"]


def test_importing_loads_numpy_at_most() -> None:
    script = """
import sys
before = set(sys.modules)
import lvm_runtime
assert not {"numpy", "argparse"} & set(sys.modules)
assert {*lvm_runtime.__all__} <= {*dir(lvm_runtime)}
lvm_runtime.Predictor
print(*{name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {"lvm_runtime", "numpy"}
