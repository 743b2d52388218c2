"""`lvm-runtime export native --model amn`, or `python -m export.native` in a checkout."""

from __future__ import annotations

from collections.abc import Sequence

from lvm_runtime.commands import console

from ..commandline import make_parser, open_arguments, report_line
from .files import FILES

DESCRIPTION = """\
Export to the native engine.

Writes the deployment form as a plan with int8 weights, for contexts of any batch size and for whole documents (drift
≤ 1e-3, independent of batch-mates to the bit)."""


def command(argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Parse the command line and export."""
    parser = make_parser(DESCRIPTION, prog)
    parser.add_argument("--no-sequence", action="store_true", help="leave out the sequence form")
    arguments = parser.parse_args(argv)
    source, samples = open_arguments(arguments)
    from .export import export_native

    for kind, path in FILES.items():
        if kind == "context" or not arguments.no_sequence:
            console.show(report_line(export_native(source, samples, kind), path))
    return 0


if __name__ == "__main__":
    raise SystemExit(console.run(command))
