"""Every compiled form that an artifact can have, and the function that makes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from lvm_runtime.artifact.folder import Artifact

if TYPE_CHECKING:
    from .source import Source
    from .verify import Sample

FORMATS = {"torchscript": (), "onnx": ("onnx",), "coreml": ("coremltools",)}
"""Name of a format, and the libraries beside PyTorch that making it needs; they are loaded when it is made."""


def exports(
    source: Source, samples: Sequence[Sample], formats: Sequence[str] = tuple(FORMATS)
) -> Iterator[tuple[str, Callable[[], Artifact]]]:
    """Yield (path in the artifact, function that makes it) for every form of `formats`."""
    if "torchscript" in formats:
        from .torchscript import FILE, export_torchscript

        yield FILE, partial(export_torchscript, source, samples)
    if "onnx" in formats:
        from .onnx.export import export_onnx, export_sequence
        from .onnx.files import PRECISIONS, SEQUENCE_FILE, context_file

        for precision in PRECISIONS:
            yield context_file(precision), partial(export_onnx, source, samples, precision)
        yield SEQUENCE_FILE, partial(export_sequence, source, samples)
    if "coreml" in formats:
        from .coreml.export import export_coreml

        yield "coreml/fp16.mlpackage", partial(export_coreml, source, samples)
