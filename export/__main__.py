"""Export to every format: `python -m export --model amn` writes TorchScript, ONNX and Core ML."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module

from export.commandline import main, make_parser, open_arguments, report_line
from export.onnx import PRECISIONS, SEQUENCE_FILE, context_file, export_onnx, export_sequence
from export.torchscript import FILE, export_torchscript
from lvm_runtime.artifact import Artifact

FORMATS = ("torchscript", "onnx", "coreml")


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
    formats = arguments.format or FORMATS
    source, samples = open_arguments(arguments)
    if "torchscript" in formats:
        print(report_line(export_torchscript(source, samples), FILE))
    if "onnx" in formats:
        for precision in PRECISIONS:
            print(report_line(export_onnx(source, samples, precision), context_file(precision)))
        print(report_line(export_sequence(source, samples), SEQUENCE_FILE))
    if "coreml" in formats:  # loads coremltools, which the other formats do without
        artifact: Artifact = import_module("export.coreml").export_coreml(source, samples)
        for compiled in artifact.find("coreml"):
            print(report_line(artifact, compiled.file.path))
    return 0


if __name__ == "__main__":
    main(command)
