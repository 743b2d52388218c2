"""`lvm-runtime export coreai --model amn`, or `python -m export.coreai` in a checkout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lvm_runtime.backends.coreai import CoreAIBackend
from lvm_runtime.commands import console
from lvm_runtime.errors import InvalidInput

from ..commandline import batch_sizes, make_parser, open_arguments, refuse_data, report_line
from ..coreml.options import BATCH_SIZES, COMPRESSIONS
from .options import PRECISIONS, SHAPES, USUAL, chosen

DESCRIPTION = f"""\
Export to Core AI, the successor of Core ML in macOS 27.

Without --shapes and --precision it writes {" and ".join(usual.path for usual in USUAL)}. Each asset is executed by
Core AI's runtime, on any system, before it is kept (drift ≤ 1e-6 in fp32, ≤ 1e-4 in fp16). Elsewhere than on macOS 27
that runtime is slow: minutes for fp16 with --shapes dynamic at full size."""


def command(argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Parse the command line and export."""
    parser = make_parser(DESCRIPTION, prog)
    add = parser.add_argument
    add(
        "--shapes",
        choices=SHAPES,
        help="dynamic: one function for any batch size, linear layers, for GPU and CPU; static: one function per batch "
        "size, 1x1 convolutions, for the Neural Engine (default: both, dynamic in fp32 and static in fp16)",
    )
    add("--precision", choices=PRECISIONS, help="the Neural Engine takes fp16 only")
    add("--batch-sizes", type=batch_sizes, metavar="N,N,…", help="of static (default: 1,8,32,128)")
    add("--compress", choices=COMPRESSIONS, default="none", help="smaller weights, by coreai-opt (extra coreai-opt)")
    add(
        "--stock",
        action="store_true",
        help="convert the unmodified module instead, as a baseline, and list its operations beside ours; it goes "
        "beside the artifact, not into it (default: dynamic in fp32)",
    )
    arguments = parser.parse_args(argv)
    if arguments.stock and arguments.compress != "none":
        raise InvalidInput("--stock is a baseline without --compress; leave one of the two out")
    sizes = arguments.batch_sizes or BATCH_SIZES
    wanted = chosen(arguments.shapes, arguments.precision, sizes, arguments.compress)
    if arguments.stock:
        wanted = wanted[:1]
        refuse_data(arguments)
    if all(options.shapes == "dynamic" for options in wanted):
        console.refuse_given(arguments, ("batch-sizes",), "is for --shapes static; dynamic takes any")
    CoreAIBackend.require()
    source, samples = open_arguments(arguments)
    if arguments.stock:
        from .stock import compare_stock

        console.show(compare_stock(source, samples, wanted[0], Path(f"{source.artifact.path}-stock.aimodel")))
        return 0
    from .export import export_coreai

    for options in wanted:
        console.note(f"coreai: converting and executing {options.name}")
        console.show(report_line(export_coreai(source, samples, options), options.path))
    return 0


if __name__ == "__main__":
    raise SystemExit(console.run(command))
