"""Export to every format: `python -m export --model amn` writes TorchScript, ONNX and Core ML.

A form that fails its verification is not kept and does not keep the others from being made; the command then ends
with an error that names it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.errors import VerificationFailed

from .commandline import main, make_parser, open_arguments, report_line
from .onnx.export import PRECISIONS, SEQUENCE_FILE, context_file, export_onnx, export_sequence
from .source import Source
from .torchscript import FILE, export_torchscript
from .verify import Sample

FORMATS = ("torchscript", "onnx", "coreml")


def exports(
    source: Source, samples: Sequence[Sample], formats: Sequence[str] = FORMATS
) -> Iterator[tuple[str, Callable[[], Artifact]]]:
    """Yield (path in the artifact, function that makes it) for every form of `formats`."""
    if "torchscript" in formats:
        yield FILE, partial(export_torchscript, source, samples)
    if "onnx" in formats:
        for precision in PRECISIONS:
            yield context_file(precision), partial(export_onnx, source, samples, precision)
        yield SEQUENCE_FILE, partial(export_sequence, source, samples)
    if "coreml" in formats:
        from .coreml import export_coreml  # loads coremltools, which the other formats do without

        yield "coreml/fp16.mlpackage", partial(export_coreml, source, samples)


def command(argv: Sequence[str] | None = None) -> int:
    """Run `python -m export`."""
    parser = make_parser("export", __doc__ or "")
    parser.add_argument(
        "--format",
        action="append",
        choices=FORMATS,
        help="may be repeated (default: all); each has a command of its own",
    )
    arguments: argparse.Namespace = parser.parse_args(argv)
    source, samples = open_arguments(arguments)
    refused = []
    for path, export in exports(source, samples, arguments.format or FORMATS):
        try:
            print(report_line(export(), path), flush=True)
        except VerificationFailed as error:
            refused.append(path)
            print(f"refused: {error}", file=sys.stderr)
    if refused:
        raise VerificationFailed(f"{', '.join(refused)} not made, for the reasons above; the other forms are")
    return 0


if __name__ == "__main__":
    main(command)
