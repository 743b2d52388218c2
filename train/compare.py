"""`python -m train.compare amn lstm`: the runs side by side, as a table, Markdown, JSON and one HTML page.

A run is named by its artifact (`amn`, `artifacts/amn`) or by its folder of figures (`artifacts/amn.run`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lvm_runtime.artifact.folder import DEFAULT_ROOT
from lvm_runtime.commands import console
from lvm_runtime.errors import InvalidInput


def main() -> int:
    """Parse the command line, compare and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m train.compare",
        description="Put trained models side by side, with intervals and baselines.",
    )
    parser.add_argument("runs", nargs="*", help="artifacts or .run folders (default: all under artifacts/)")
    parser.add_argument("--out", type=Path, default=DEFAULT_ROOT / "comparison", help="folder of the report")
    options = parser.parse_args()
    from .report.compare import compare
    from .report.runs import find_run

    folders = [find_run(name) for name in options.runs] or sorted(DEFAULT_ROOT.glob("*.run"))
    if not folders:
        raise InvalidInput(f"no run under {DEFAULT_ROOT}; train with: python -m train.all")
    print(compare(folders, options.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(console.run(main))
