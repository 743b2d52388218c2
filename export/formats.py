"""Every compiled form that an artifact can have, and the function that makes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends.coreai import CoreAIBackend
from lvm_runtime.backends.mlx import MlxBackend
from lvm_runtime.backends.native import NativeBackend
from lvm_runtime.system.extras import installed

if TYPE_CHECKING:
    from .source import Source
    from .verify import Sample

FORMATS = {"torchscript": (), "onnx": ("onnx",), "native": (), "mlx": (), "coreml": ("coremltools",), "coreai": ()}
"""Name of a format, and the libraries beside PyTorch that making it needs; they are loaded when it is made."""


def makeable() -> tuple[str, ...]:
    """Return the formats that can be made and verified here: all, but native, mlx and coreai only where they run."""
    absent = {cls.format for cls in (NativeBackend, MlxBackend, CoreAIBackend) if cls.missing()}
    if not installed("coreai_torch"):  # serving does without
        absent.add("coreai")
    return tuple(name for name in FORMATS if name not in absent)


def exports(
    source: Source, samples: Sequence[Sample], formats: Sequence[str] | None = None
) -> Iterator[tuple[str, Callable[[], Artifact]]]:
    """Yield (path in the artifact, function that makes it) for every form of `formats`, by default what is makeable."""
    formats = makeable() if formats is None else formats
    if "torchscript" in formats:
        from .torchscript import FILE, export_torchscript

        yield FILE, partial(export_torchscript, source, samples)
    if "onnx" in formats:
        from .onnx.export import export_onnx, export_sequence
        from .onnx.files import PRECISIONS, SEQUENCE_FILE, context_file

        for precision in PRECISIONS:
            yield context_file(precision), partial(export_onnx, source, samples, precision)
        yield SEQUENCE_FILE, partial(export_sequence, source, samples)
    if "native" in formats:
        from .native.export import export_native
        from .native.files import FILES

        for (kind, precision), path in FILES.items():
            yield path, partial(export_native, source, samples, kind, precision)
    if "mlx" in formats:
        from .mlx.export import export_mlx
        from .mlx.files import FILES as MLX_FILES

        for kind, path in MLX_FILES.items():
            yield path, partial(export_mlx, source, samples, kind)
    if "coreml" in formats:
        from .coreml.export import export_coreml

        yield "coreml/fp16.mlpackage", partial(export_coreml, source, samples)
    if "coreai" in formats:
        from .coreai.export import export_coreai
        from .coreai.options import USUAL

        for usual in USUAL:
            yield usual.path, partial(export_coreai, source, samples, usual)
