"""`lvm-runtime export native --model amn`, or `python -m export.native` in a checkout."""

from __future__ import annotations

from collections.abc import Sequence

from lvm_runtime.commands import console

from ..commandline import add_forms, make_parser, open_arguments, report_line
from .files import FILES, PRECISIONS

DESCRIPTION = """\
Export to the native engine.

Writes the deployment form as a plan for contexts of any batch size, and one for whole documents, in fp32 (drift ≤ 1e-6)
and in int8 (drift ≤ 1e-3). Answers do not depend on batch-mates, to the bit."""


def command(argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Parse the command line and export."""
    parser = make_parser(DESCRIPTION, prog)
    add_forms(parser, PRECISIONS)
    arguments = parser.parse_args(argv)
    source, samples = open_arguments(arguments)
    from .export import export_native

    for (kind, precision), path in FILES.items():
        left_out = arguments.no_sequence and kind == "sequence"
        if not left_out and precision in (arguments.precision or PRECISIONS):
            console.show(report_line(export_native(source, samples, kind, precision), path))
    return 0


if __name__ == "__main__":
    raise SystemExit(console.run(command))
