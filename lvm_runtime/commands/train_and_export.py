"""Reach the commands of `train` and `export` by name; this package does not import those two.

A wheel carries them as `lvm_runtime.train` and `lvm_runtime.export`. In a checkout they are the folders beside this
package, and are imported as `train` and `export`, as `python -m train` does.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lvm_runtime.system.imports import load

_PACKAGE = Path(__file__).parents[1]

TOOLS = {
    "train": ("train.__main__", "train a model on a corpus and write its artifact"),
    "compare": ("train.compare", "put trained models side by side, as one table and one page"),
    "diagnose": ("train.diagnose", "say what a corpus offers to learn from"),
    "import-checkpoint": ("train.import_checkpoint", "turn a checkpoint of the reference into an artifact"),
    "export": ("export.__main__", "add compiled forms to an artifact, each verified"),
    "export torchscript": ("export.torchscript", ""),
    "export onnx": ("export.onnx.__main__", ""),
    "export native": ("export.native.__main__", ""),
    "export mlx": ("export.mlx.__main__", ""),
    "export triton": ("export.triton.__main__", ""),
    "export coreml": ("export.coreml.__main__", ""),
    "export coreai": ("export.coreai.__main__", ""),
    "export ane-lint": ("export.ane_lint.__main__", ""),
    "export mil-reference": ("export.mil_reference.__main__", ""),
    "export mac-report": ("export.mac_report.__main__", ""),
}
"""Command to its module and one line of help; those of two words are listed by `export --help`."""


def find_tool(arguments: Sequence[str]) -> str | None:
    """Return the tool that the command line begins with, None if it is another command."""
    return next((name for name in (" ".join(arguments[:2]), *arguments[:1]) if name in TOOLS), None)


def run_tool(name: str, arguments: Sequence[str], program: str) -> int | None:
    """Run a tool's `command` with the arguments that follow its name; `program` is what the user typed before it."""
    result: int | None = load(module_of(name)).command(arguments, prog=f"{program} {name}")
    return result


def module_of(name: str) -> str:
    """Return the full name of a tool's module here."""
    module, _ = TOOLS[name]
    if (_PACKAGE / module.partition(".")[0]).is_dir():
        return f"lvm_runtime.{module}"
    root = str(_PACKAGE.parent)
    if root not in sys.path:
        sys.path.insert(0, root)
    return module
