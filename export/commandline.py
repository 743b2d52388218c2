"""What the export commands share: their options, and what they print."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lvm_runtime.artifact.config import ARCHITECTURES
from lvm_runtime.artifact.drift import OVERLAP_LIMIT
from lvm_runtime.artifact.folder import MANIFEST, Artifact
from lvm_runtime.commands import console
from lvm_runtime.commands.parser import Parser
from lvm_runtime.coreml.package import import_coremltools
from lvm_runtime.corpus import corpus as corpora
from lvm_runtime.errors import InvalidInput
from lvm_runtime.system import atomic, extras

if TYPE_CHECKING:
    from .source import Source
    from .verify import Sample


COREML = "coremltools"
UNTRAINED_DIM = 768


def make_parser(description: str, prog: str | None = None, epilog: str = "") -> Parser:
    """Return a parser with the options of every export command; `prog` is what the user typed for it."""
    parser = Parser(
        prog=prog or console.program(),
        description=description,
        epilog=f"example: %(prog)s --model amn\n{epilog}",
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
        help="export random weights, to try things out; the artifact goes to artifacts/NAME-untrained, where no other "
        "model is replaced",
    )
    parser.add_argument("--dim", type=int, help=f"vector size D of --untrained weights (default: {UNTRAINED_DIM})")
    parser.add_argument(
        "--data",
        type=_corpus,
        metavar="CORPUS",
        help="bundled, or a corpus, as `lvm-runtime predict --help` describes it, whose last documents verify the "
        "export, also by what a search in it finds (default: the bundled corpus if its vectors and documents fit, "
        "else the real probes in the artifact; no search)",
    )
    parser.add_argument(
        "--min-overlap",
        type=float,
        metavar="X",
        help="smallest share of the first 10 that the trained model finds in --data and a form must find too "
        f"(default: {OVERLAP_LIMIT:g})",
    )
    return parser


def add_forms(parser: Parser, precisions: Sequence[str]) -> None:
    """Add the options that say which forms are written: all, in each of `precisions`, where neither is given."""
    listed = " and ".join(precisions)
    parser.add_argument("--precision", action="append", choices=precisions, help=f"may be repeated (default: {listed})")
    parser.add_argument("--no-sequence", action="store_true", help="leave out the sequence form")


def _corpus(text: str) -> Path:
    """Return the path of the corpus that `--data` means, as it does in training."""
    return corpora.BUNDLED if text == "bundled" else Path(text)


def batch_sizes(text: str) -> tuple[int, ...]:
    """Parse a list of batch sizes such as "1,8,32,128"."""
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: expected integers such as 1,8,32,128") from error


def refuse_data(arguments: argparse.Namespace) -> None:
    """Raise InvalidInput for a corpus that was given to a baseline, which is compared on random contexts alone."""
    console.refuse_given(arguments, ("data", "min-overlap"), "is for our forms; --stock is proved by random contexts")


def open_arguments(arguments: argparse.Namespace, *libraries: str) -> tuple[Source, tuple[Sample, ...]]:
    """Open the artifact that the parsed options mean, and compute the answers that its exports must give.

    Raises BackendUnavailable, before anything is computed, if one of `libraries` is missing, InvalidInput for a vector
    size of weights that are trained and for an overlap without a corpus to search.
    """
    if arguments.dim is not None and not arguments.untrained:
        raise InvalidInput(f"--dim {arguments.dim} is for --untrained weights; trained ones have a vector size already")
    if arguments.data is None:
        console.refuse_given(arguments, ("min-overlap",), "is for a search in --data; without it nothing is searched")
    extras.require("export", "exporting", "torch", "safetensors", *(name for name in libraries if name != COREML))
    if COREML in libraries:
        import_coremltools()
    from .source import open_source
    from .verify import make_samples

    dim = UNTRAINED_DIM if arguments.dim is None else arguments.dim
    overlap = OVERLAP_LIMIT if arguments.min_overlap is None else arguments.min_overlap
    source = open_source(arguments.model, untrained=arguments.untrained, dim=dim)
    atomic.require_writable(source.artifact.path / MANIFEST)
    console.note(f"{source.artifact.path}: computing the known answers in float64")
    return source, make_samples(source, arguments.data, min_overlap=overlap)


def report_line(artifact: Artifact, relative: str) -> str:
    """Return one line on the compiled form at `relative`: where, size, drift, what a search with it finds."""
    compiled = next(c for c in artifact.manifest.compiled if c.file.path == relative)
    median = compiled.details.get("median_drift")
    middle = "" if median is None else f", {median:.1e} at the median"
    size = compiled.file.bytes / 1e6
    found = compiled.details.get("search")
    finds = "" if found is None else (
        f", {found['overlap']:.4f} of the same {found['k']} found, MRR {found['mrr_difference']:+.4f}"
    )  # fmt: skip
    return f"{artifact.path / relative}: {size:.1f} MB, {compiled.precision}, drift {compiled.drift:.1e}{middle}{finds}"
