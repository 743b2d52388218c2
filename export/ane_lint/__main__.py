"""Command line of the lint; exits with 1 if there is an error."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lvm_runtime.commands import console

from .findings import Level
from .lint import lint_package, report


def run(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, lint and print."""
    parser = argparse.ArgumentParser(
        prog="python -m export.ane_lint",
        description="Say what would keep a Core ML package (any mlprogram) off the Neural Engine: errors, warnings and "
        "notes, each with the operation, why, and what to do. Exits with 1 if there are errors.",
        epilog="example: python -m export.ane_lint artifacts/amn/coreml/fp16.mlpackage",
    )
    parser.add_argument("package", metavar="PACKAGE", type=Path)
    package = parser.parse_args(argv).package
    findings = lint_package(package)
    print(report(package, findings))
    return int(any(finding.level is Level.ERROR for finding in findings))


if __name__ == "__main__":
    sys.exit(console.run(run))
