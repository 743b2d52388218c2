"""Export to ONNX: `python -m export.onnx --model amn`.

Writes the deployment form for any batch size, in fp32 (drift ≤ 1e-6) and in int8 (drift ≤ 1e-3, independent of
batch-mates), and the sequence form, which predicts every window of a document and shares their common work.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..commandline import main, make_parser, open_arguments, report_line
from .export import PRECISIONS, SEQUENCE_FILE, context_file, export_onnx, export_sequence


def command(argv: Sequence[str] | None = None) -> int:
    """Run `python -m export.onnx`."""
    parser = make_parser("export.onnx", __doc__ or "")
    parser.add_argument(
        "--precision",
        action="append",
        choices=PRECISIONS,
        help="may be repeated (default: fp32 and int8)",
    )
    parser.add_argument("--no-sequence", action="store_true", help="leave out the sequence form")
    arguments: argparse.Namespace = parser.parse_args(argv)
    source, samples = open_arguments(arguments)
    for precision in arguments.precision or PRECISIONS:
        print(report_line(export_onnx(source, samples, precision), context_file(precision)))
    if not arguments.no_sequence:
        print(report_line(export_sequence(source, samples), SEQUENCE_FILE))
    return 0


if __name__ == "__main__":
    main(command)
