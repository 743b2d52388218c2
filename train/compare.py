"""`lvm-runtime compare amn lstm`: the runs side by side, as a table, Markdown, JSON and one HTML page.

A run is named by its artifact (`amn`, `artifacts/amn`) or by its folder of figures (`artifacts/amn.run`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lvm_runtime.artifact.folder import DEFAULT_ROOT
from lvm_runtime.commands import console
from lvm_runtime.commands.parser import Parser
from lvm_runtime.errors import InvalidInput
from lvm_runtime.system import extras


def command(argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Parse the command line, compare and print the table."""
    parser = Parser(
        prog=prog or console.program(),
        description="Put trained models side by side, with intervals and baselines.",
    )
    parser.add_argument(
        "runs", metavar="RUN", nargs="*", help="artifacts or .run folders (default: all under artifacts/)"
    )
    parser.add_argument(
        "--out", type=Path, default=DEFAULT_ROOT / "comparison", help="folder of the report (default: %(default)s)"
    )
    options = parser.parse_args(argv)
    extras.require("train", "comparing models", "torch", "safetensors", "matplotlib")
    from .report.compare import compare
    from .report.runs import find_run

    folders = [find_run(name) for name in options.runs] or sorted(DEFAULT_ROOT.glob("*.run"))
    if not folders:
        raise InvalidInput(f"no run under {DEFAULT_ROOT}; train with: lvm-runtime train --model amn")
    console.show(compare(folders, options.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(console.run(command))
