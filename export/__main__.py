"""`lvm-runtime export --model amn`, or `python -m export` in a checkout: every format in one go."""

from __future__ import annotations

from collections.abc import Sequence

from lvm_runtime.commands import console
from lvm_runtime.errors import InvalidInput, VerificationFailed

from .commandline import make_parser, open_arguments, report_line
from .formats import FORMATS, exports, makeable

DESCRIPTION = """\
Add compiled forms to an artifact: TorchScript, ONNX, native, MLX, Core ML and Core AI.

A form that fails its verification, or cannot hold the model, is not kept and does not keep the others from being made;
the command then ends with an error that names it."""
EPILOG = """
Each format has a command of its own with more options, and there are tools for Triton and for Core ML packages:

  lvm-runtime export torchscript | onnx | native | mlx | coreml | coreai --help
  lvm-runtime export triton                   a model repository for NVIDIA Triton
  lvm-runtime export ane-lint PACKAGE         what would keep a package off the Neural Engine
  lvm-runtime export mil-reference PACKAGE    what a package answers, computed on any machine
  lvm-runtime export mac-report               on a Mac: placement, latency and accuracy of this device"""

_OF_FORMATS = {"--precision": "onnx", "--no-sequence": "onnx"} | dict.fromkeys(
    ("--shapes", "--batch-sizes", "--compress"), "coreml"
)


def command(argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Parse the command line and export."""
    parser = make_parser(DESCRIPTION, prog, EPILOG)
    parser.elsewhere = {
        option: f"a format's own command, such as `{parser.prog} {name}`," for option, name in _OF_FORMATS.items()
    }
    what = "may be repeated (default: all that can be made here)"
    parser.add_argument("--format", action="append", choices=FORMATS, help=what)
    arguments = parser.parse_args(argv)
    formats = tuple(arguments.format or makeable())
    source, samples = open_arguments(arguments, *(library for name in formats for library in FORMATS[name]))
    if left_out := [] if arguments.format else [name for name in FORMATS if name not in formats]:
        listed = ", ".join(left_out)
        console.note(f"left out, as not all is here that they need: {listed}; --format NAME says what")
    refused = []
    for path, export in exports(source, samples, formats):
        try:
            console.show(report_line(export(), path))
        except (InvalidInput, VerificationFailed) as error:
            refused.append(path)
            console.note(f"refused: {error}")
    if refused:
        raise VerificationFailed(f"{', '.join(refused)} not made, for the reasons above; the other forms are")
    return 0


if __name__ == "__main__":
    raise SystemExit(console.run(command))
