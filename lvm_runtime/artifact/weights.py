"""The header of a weights file, compared with the config without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lvm_runtime.artifact.config import ModelConfig
from lvm_runtime.artifact.files import open_plain
from lvm_runtime.artifact.json_text import parse_object
from lvm_runtime.artifact.limits import LARGEST_WEIGHTS_HEADER
from lvm_runtime.artifact.shapes import Shape
from lvm_runtime.errors import ArtifactError

_FLOAT32 = 4  # bytes


def check_shapes(found: Mapping[str, Shape], config: ModelConfig, source: str) -> None:
    """Raise ArtifactError unless `found` has the weights of `config`; `source` is named in it.

    Stops at the first that is missing, so that a config of a billion layers costs nothing.
    """
    count = 0
    for name, shape in config.weight_shapes():
        if name not in found:
            other = next((n for n in found if n.endswith(f".{name}")), next(iter(found), None))
            instead = "" if other is None else f"; there is {other[:99]!r}"
            raise ArtifactError(f"{source}: not the weights of this {config.architecture}: {name} is missing{instead}")
        if tuple(found[name]) != shape:
            raise ArtifactError(
                f"{source}: not the weights of this {config.architecture}: {name} has shape {list(found[name])}, "
                f"expected {list(shape)} after its config"
            )
        count += 1
    if count != len(found):
        extra = sorted(set(found) - {name for name, _ in config.weight_shapes()})
        raise ArtifactError(f"{source}: not the weights of this {config.architecture}: {extra[0][:99]!r} is not known")


def check_header(path: Path, config: ModelConfig) -> None:
    """Read the header of a safetensors file and compare it with `config` and with the size of the file.

    Raises ArtifactError for a header that is malformed or large, tensors that are not float32, leave gaps or
    overlap, and for weights that are not those of the config.
    """
    with open_plain(path) as file:
        header = _read_header(file.read(8), path, file.read(LARGEST_WEIGHTS_HEADER))
        size = path.stat().st_size
    tensors = parse_object(header, f"{path}: header")
    tensors.pop("__metadata__", None)
    check_shapes(_read_shapes(tensors, path, size - 8 - len(header)), config, str(path))


def _read_header(prefix: bytes, path: Path, rest: bytes) -> bytes:
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > min(LARGEST_WEIGHTS_HEADER, len(rest)):
        raise ArtifactError(
            f"{path}: its header has {length:,} bytes, expected at most {min(LARGEST_WEIGHTS_HEADER, len(rest)):,}; "
            "this is not a safetensors file of this project"
        )
    return rest[:length]


def _read_shapes(tensors: dict[str, Any], path: Path, size: int) -> dict[str, Shape]:
    """Return the shapes of the tensors, which must be float32 and fill the `size` bytes after the header exactly."""
    shapes: dict[str, Shape] = {}
    spans = []
    for name, entry in tensors.items():
        match entry:
            case {"dtype": "F32", "shape": list(shape), "data_offsets": [int(start), int(end)]} if len(entry) == 3:
                whole = len(shape) <= 4 and all(type(n) is int and 0 < n <= size for n in shape)
                whole = whole and type(start) is int and type(end) is int  # JSON's false is an int to Python
                if not whole or math.prod(shape) * _FLOAT32 != end - start:
                    raise ArtifactError(f"{path}: tensor {name[:99]!r}: shape and offsets do not fit each other")
                shapes[name] = tuple(shape)
                spans.append((start, end))
            case _:
                raise ArtifactError(f"{path}: tensor {name[:99]!r}: expected dtype F32, shape and data_offsets")
    ends = [0, *(end for _, end in sorted(spans))]
    if any(start != end for (start, _), end in zip(sorted(spans), ends, strict=False)) or ends[-1] != size:
        raise ArtifactError(f"{path}: its tensors leave gaps, overlap, or do not end with the file")
    return shapes
