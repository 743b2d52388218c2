"""`lvm-runtime export onnx --model amn`, or `python -m export.onnx` in a checkout."""

from __future__ import annotations

from collections.abc import Sequence

from lvm_runtime.commands import console

from ..commandline import add_forms, make_parser, open_arguments, report_line
from .files import PRECISIONS, SEQUENCE_FILE, context_file

DESCRIPTION = """\
Export to ONNX.

Writes the deployment form for any batch size, in fp32 (drift ≤ 1e-6) and in int8 (drift ≤ 1e-3, independent of
batch-mates), and the sequence form, which predicts every window of a document and shares their common work."""


def command(argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Parse the command line and export."""
    parser = make_parser(DESCRIPTION, prog)
    add_forms(parser, PRECISIONS)
    arguments = parser.parse_args(argv)
    source, samples = open_arguments(arguments, "onnx")
    from .export import export_onnx, export_sequence

    for precision in arguments.precision or PRECISIONS:
        console.show(report_line(export_onnx(source, samples, precision), context_file(precision)))
    if not arguments.no_sequence:
        console.show(report_line(export_sequence(source, samples), SEQUENCE_FILE))
    return 0


if __name__ == "__main__":
    raise SystemExit(console.run(command))
