"""`lvm-runtime export coreml --model amn`, or `python -m export.coreml` in a checkout."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lvm_runtime.commands import console
from lvm_runtime.errors import InvalidInput

from ..commandline import batch_sizes, make_parser, open_arguments, refuse_data, report_line
from .options import (
    BATCH_SIZES,
    COMPRESSIONS,
    COMPUTE_UNITS,
    GELUS,
    PRECISIONS,
    SHAPES,
    TARGETS,
    CoreMLOptions,
)

DESCRIPTION = """\
Add a Core ML package to an artifact.

The model is rewritten for the Neural Engine (1x1 convolutions, unrolled steps, constant masks), converted, and
compared with its training form by an evaluator that runs on any machine, at every batch size; on macOS by Core ML
itself as well. A package that fails is not kept. The defaults are what most people want."""
EPILOG = """\
         %(prog)s --model artifacts/lstm --compress palette8
         %(prog)s --model gru --shapes enumerated --target macOS14
         lvm-runtime export ane-lint artifacts/amn/coreml/fp16.mlpackage
         lvm-runtime placement artifacts/amn/coreml/fp16.mlpackage      (on a Mac: what runs where)"""


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Return the command's parser; `prog` is what the user typed for it."""
    parser = make_parser(DESCRIPTION, prog, EPILOG)
    default = CoreMLOptions()
    add = parser.add_argument
    add(
        "--shapes",
        choices=SHAPES,
        default=default.shapes,
        help="how several batch sizes get into the package: one static function each (multifunction, the default, "
        "macOS 15 and later), one function for all (enumerated), or one size only (static)",
    )
    add("--batch-sizes", type=batch_sizes, metavar="N,N,…", help="default: 1,8,32,128; of static: 1")
    add("--precision", choices=PRECISIONS, default=default.precision, help="the Neural Engine takes fp16 only")
    add("--compress", choices=COMPRESSIONS, default=default.compress, help="smaller weights; checked by --max-drift")
    add(
        "--max-drift",
        type=float,
        metavar="X",
        help="largest drift (1 - cosine) at which a compressed package is kept "
        f"(default: {default.max_drift:g}, the most that the runtime accepts)",
    )
    add("--target", choices=TARGETS, help="oldest system to support (default: macOS15; unless multifunction, macOS14)")
    units = f"recorded for the runtime (default: {default.compute_units})"
    add("--compute-units", choices=COMPUTE_UNITS, help=units)
    add(
        "--gelu",
        choices=GELUS,
        help=f"erf: spell GELU out, for devices whose own is too coarse (default: {default.gelu})",
    )
    add(
        "--stock",
        action="store_true",
        help="convert the unmodified module instead, as a baseline; the package goes beside the artifact, not into it",
    )
    return parser


def options_from(arguments: argparse.Namespace) -> CoreMLOptions:
    """Return the options that a parsed command line means."""
    if arguments.compress == "none":
        console.refuse_given(arguments, ("max-drift",), "is for a package with --compress; others have fixed limits")
    given = {name: getattr(arguments, name) for name in CoreMLOptions.__slots__}
    if arguments.shapes == "static" and arguments.batch_sizes is None:
        given["batch_sizes"] = BATCH_SIZES[:1]
    return CoreMLOptions(**{name: value for name, value in given.items() if value is not None})


def command(argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Parse the command line and export."""
    arguments = build_parser(prog).parse_args(argv)
    options = options_from(arguments)
    if arguments.stock and options.compress != "none":
        raise InvalidInput("--stock is a baseline without --compress; leave one of the two out")
    if arguments.stock:
        console.refuse_given(arguments, ("compute-units", "gelu"), "is for our form; --stock converts another module")
        refuse_data(arguments)
    source, samples = open_arguments(arguments, "coremltools")
    if arguments.stock:
        from .stock import export_stock

        path, drift = export_stock(source, samples, options, Path(f"{source.artifact.path}-stock.mlpackage"))
        console.show(
            f"{path}: the unmodified module, drift {drift:.1e}; compare with: lvm-runtime export ane-lint {path}"
        )
        return 0
    from .export import export_coreml

    artifact = export_coreml(source, samples, options, say=lambda text: console.note(f"coreml: {text}"))
    console.show(report_line(artifact, f"coreml/{options.name}.mlpackage"))
    return 0


if __name__ == "__main__":
    raise SystemExit(console.run(command))
