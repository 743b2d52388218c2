"""Export to the native engine: `python -m export.native --model amn`.

Writes the deployment form as a plan with int8 weights, for contexts of any batch size and for whole documents (drift
≤ 1e-3, independent of batch-mates to the bit).
"""

from __future__ import annotations

from collections.abc import Sequence

from ..commandline import main, make_parser, open_arguments, report_line
from .export import FILES, export_native


def command(argv: Sequence[str] | None = None) -> int:
    """Run `python -m export.native`."""
    parser = make_parser("export.native", __doc__ or "")
    parser.add_argument("--no-sequence", action="store_true", help="leave out the sequence form")
    arguments = parser.parse_args(argv)
    source, samples = open_arguments(arguments)
    for kind, path in FILES.items():
        if kind == "context" or not arguments.no_sequence:
            print(report_line(export_native(source, samples, kind), path))
    return 0


if __name__ == "__main__":
    main(command)
