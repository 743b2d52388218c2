"""What the export commands share: their options, and what they print."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from lvm_runtime.artifact.config import ARCHITECTURES
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.commands import console

from .source import Source, open_source
from .verify import Sample, make_samples


def make_parser(command: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    """Return a parser with the options of every export command."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {command}",
        description=description.partition("\n\nB batch")[0],
        epilog=f"example: python -m {command} --model amn\n{epilog}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar="NAME|PATH",
        help=f"an artifact's folder, or one of {', '.join(ARCHITECTURES)}, which means artifacts/NAME",
    )
    parser.add_argument(
        "--untrained",
        action="store_true",
        help="export random weights, to try things out; the artifact goes to artifacts/NAME-untrained",
    )
    parser.add_argument("--dim", type=int, default=768, help="vector size D of --untrained weights (default: 768)")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="CORPUS",
        help="a corpus, as `lvm-runtime predict --help` describes it, whose last documents verify the export "
        "(default: the bundled corpus if its D fits, else the real probes in the artifact)",
    )
    return parser


def open_arguments(arguments: argparse.Namespace) -> tuple[Source, tuple[Sample, ...]]:
    """Open the artifact that the parsed options mean, and compute the answers that its exports must give."""
    source = open_source(arguments.model, untrained=arguments.untrained, dim=arguments.dim)
    print(f"{source.artifact.path}: computing the known answers in float64", file=sys.stderr)
    return source, make_samples(source, arguments.data)


def report_line(artifact: Artifact, relative: str) -> str:
    """Return one line on the compiled form at `relative`: where, size, drift."""
    compiled = next(c for c in artifact.manifest.compiled if c.file.path == relative)
    median = compiled.details.get("median_drift")
    middle = "" if median is None else f", {median:.1e} at the median"
    size = compiled.file.bytes / 1e6
    return f"{artifact.path / relative}: {size:.1f} MB, {compiled.precision}, drift {compiled.drift:.1e}{middle}"


def main(command: Callable[[], int | None]) -> None:
    """Run a command's body and exit with its status; errors become one line."""
    sys.exit(console.run(command))
