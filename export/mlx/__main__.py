"""`lvm-runtime export mlx --model amn`, or `python -m export.mlx` in a checkout."""

from __future__ import annotations

from collections.abc import Sequence

from lvm_runtime.backends.mlx import MlxBackend
from lvm_runtime.commands import console

from ..commandline import make_parser, open_arguments, report_line
from .files import FILES

DESCRIPTION = """\
Export to MLX, Apple's array library.

Writes the deployment form as a plan with fp32 weights, for contexts of any batch size and for whole documents. Each
file is run by MLX, on the CPU, before it is kept (drift ≤ 1e-6). A Predictor runs it in fp32, fp16 or bf16."""


def command(argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Parse the command line and export."""
    parser = make_parser(DESCRIPTION, prog)
    parser.add_argument("--no-sequence", action="store_true", help="leave out the sequence form")
    arguments = parser.parse_args(argv)
    MlxBackend.require()
    source, samples = open_arguments(arguments)
    from .export import export_mlx

    for kind, path in FILES.items():
        if kind == "context" or not arguments.no_sequence:
            console.show(report_line(export_mlx(source, samples, kind), path))
    return 0


if __name__ == "__main__":
    raise SystemExit(console.run(command))
