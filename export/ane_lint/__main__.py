"""`lvm-runtime export ane-lint PACKAGE`, or `python -m export.ane_lint`; exits with 1 if there is an error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lvm_runtime.commands import console
from lvm_runtime.commands.parser import Parser

from .findings import Level
from .lint import lint_package, report


def command(argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Parse the command line, lint and print."""
    parser = Parser(
        prog=prog or console.program(),
        description="Say what would keep a Core ML package (any mlprogram) off the Neural Engine: errors, warnings and "
        "notes, each with the operation, why, and what to do. Exits with 1 if there are errors.",
        epilog="example: %(prog)s artifacts/amn/coreml/fp16.mlpackage",
    )
    parser.add_argument("package", metavar="PACKAGE", type=Path, help="an .mlpackage")
    package = parser.parse_args(argv).package
    findings = lint_package(package)
    console.show(report(package, findings))
    return int(any(finding.level is Level.ERROR for finding in findings))


if __name__ == "__main__":
    raise SystemExit(console.run(command))
