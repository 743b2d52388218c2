"""Export to every format: `python -m export --model amn` writes TorchScript, ONNX, native and Core ML.

A form that fails its verification is not kept and does not keep the others from being made; the command then ends
with an error that names it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec

from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends.native import NativeBackend
from lvm_runtime.errors import VerificationFailed

from .commandline import main, make_parser, open_arguments, report_line
from .native.export import FILES, export_native
from .onnx.export import PRECISIONS, SEQUENCE_FILE, context_file, export_onnx, export_sequence
from .source import Source
from .torchscript import FILE as TORCHSCRIPT_FILE
from .torchscript import export_torchscript
from .verify import Sample

FORMATS = ("torchscript", "onnx", "native", "coreml")


def exports(
    source: Source, samples: Sequence[Sample], formats: Sequence[str] | None = None
) -> Iterator[tuple[str, Callable[[], Artifact]]]:
    """Yield (path in the artifact, function that makes it) for every form of `formats`, by default all.

    Without the native engine its forms are left out of all, as nothing could verify them.
    """
    if formats is None:
        formats = FORMATS if find_spec(NativeBackend.framework) else [f for f in FORMATS if f != "native"]
    if "torchscript" in formats:
        yield TORCHSCRIPT_FILE, partial(export_torchscript, source, samples)
    if "onnx" in formats:
        for precision in PRECISIONS:
            yield context_file(precision), partial(export_onnx, source, samples, precision)
        yield SEQUENCE_FILE, partial(export_sequence, source, samples)
    if "native" in formats:
        for kind, path in FILES.items():
            yield path, partial(export_native, source, samples, kind)
    if "coreml" in formats:
        from .coreml import export_coreml  # loads coremltools, which the other formats do without

        yield "coreml/fp16.mlpackage", partial(export_coreml, source, samples)


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
    source, samples = open_arguments(arguments)
    refused = []
    for path, export in exports(source, samples, arguments.format):
        try:
            print(report_line(export(), path), flush=True)
        except VerificationFailed as error:
            refused.append(path)
            print(f"refused: {error}", file=sys.stderr)
    if refused:
        raise VerificationFailed(f"{', '.join(refused)} not made, for the reasons above; the other forms are")
    return 0


if __name__ == "__main__":
    main(command)
