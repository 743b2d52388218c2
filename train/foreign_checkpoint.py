"""Checkpoints that other programs wrote: read as data, and never as code.

PyTorch's `weights_only` reader builds tensors and plain containers. Training scripts also store numpy scalars, paths
and `argparse.Namespace`. Those are data too, and stand-ins written in Python take their place in the reader, because
`numpy.dtype` and others accept states from a pickle that were never meant to come from a stranger.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lvm_runtime.errors import ArtifactError

NEEDED = ("model_type", "model_state_dict", "model_config")
PREFIXES = ("_orig_mod.", "module.")
"""What `torch.compile` and `DistributedDataParallel` put before each name."""

LARGEST_CHECKPOINT = 16 << 30
"""Bytes. A checkpoint with Adam's two moments has three times its weights, and 4 GiB of weights are the most here."""

_NUMBERS = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"})


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the checkpoint at `path` with its scalars, paths and namespaces as plain values.

    Raises ArtifactError for a file that is none, and with the name of the type for one that holds other objects.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; expected a checkpoint such as best_model.pt")
    if (size := os.path.getsize(path)) > LARGEST_CHECKPOINT:
        raise ArtifactError(f"{path}: {size:,} bytes, expected at most {LARGEST_CHECKPOINT:,}")
    try:
        with torch.serialization.safe_globals(_STAND_INS):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle leads the reader into every kind of error
        raise ArtifactError(f"{path}: {_reason(error)}") from error
    checkpoint = _plain(checkpoint) if isinstance(checkpoint, dict) else checkpoint
    if not isinstance(checkpoint, dict) or any(key not in checkpoint for key in NEEDED):
        found = (
            ", ".join(map(repr, list(checkpoint)[:20])) if isinstance(checkpoint, dict) else type(checkpoint).__name__
        )
        raise ArtifactError(f"{path}: has {found or 'nothing'}; expected a dict with {', '.join(NEEDED)}")
    weights = checkpoint["model_state_dict"]
    if not isinstance(weights, dict):
        raise ArtifactError(f"{path}: model_state_dict is {type(weights).__name__}, expected names and tensors")
    for name, tensor in weights.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            kind = str(tensor.dtype) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ArtifactError(f"{path}: model_state_dict has {name!r}: {kind}, expected tensors of floats")
    return checkpoint


def strip_prefixes(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Remove the prefixes that all names share, and return the weights and what was removed.

    >>> strip_prefixes({"module._orig_mod.bias": torch.zeros(1)})
    ({'bias': tensor([0.])}, 'module._orig_mod.')
    """
    stripped, removed = dict(weights), ""
    while stripped and (prefix := next((p for p in PREFIXES if all(n.startswith(p) for n in stripped)), None)):
        stripped = {name.removeprefix(prefix): tensor for name, tensor in stripped.items()}
        removed += prefix
    return stripped, removed


class _Type:
    """Stands in for `numpy.dtype`: remembers the code of a number type."""

    def __init__(self, code: str, *flags: Any) -> None:
        if code not in _NUMBERS:
            raise ValueError(f"holds a numpy value of type {code!r:.40}; expected numbers")
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] == ">":
            self.code = ">" + self.code


class _Namespace:
    """Stands in for `argparse.Namespace`: keeps its values in `__dict__`."""


def _scalar(type: _Type, data: bytes) -> float | int | bool:
    value: float | int | bool = np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, type.code)[
        0
    ].item()
    return value


class _Array:
    """Stands in for `numpy.ndarray`: keeps its values."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, type, fortran, data = state
        raw = data.encode("latin1") if isinstance(data, str) else data
        self.values = np.frombuffer(raw, type.code).reshape(shape, order="F" if fortran else "C")


def _new_array(*arguments: Any) -> _Array:
    return _Array()


_STAND_INS: list[Any] = [
    (_Type, "numpy.dtype"),
    (_scalar, "numpy._core.multiarray.scalar"),
    (_scalar, "numpy.core.multiarray.scalar"),
    (_Array, "numpy.ndarray"),
    (_new_array, "numpy._core.multiarray._reconstruct"),
    (_new_array, "numpy.core.multiarray._reconstruct"),
    (_Namespace, "argparse.Namespace"),
    *(
        (PurePosixPath, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
    ),
]


def _plain(value: Any) -> Any:
    """Return `value` with namespaces as dicts, paths as strings, arrays as lists, and tensors of one value as numbers.

    The tensors of a dict of weights stay.
    """
    if isinstance(value, _Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        return {key: entry if key == "model_state_dict" else _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value
    if isinstance(value, _Array):
        return value.values.tolist()
    if isinstance(value, PurePosixPath):
        return str(value)
    if isinstance(value, Tensor) and value.ndim == 0:
        return value.item()
    return value


def _reason(error: Exception) -> str:
    if names := sorted(set(re.findall(r"GLOBAL ([\w.]+)", str(error)))):
        return (
            f"holds objects beyond weights and plain values, which would run code when read: {', '.join(names)}; "
            "save it again without them"
        )
    # the rest of torch's message advises to read the file as code
    text = " ".join(str(error).rpartition("WeightsUnpickler error:")[2].partition("Check the documentation")[0].split())
    return f"not a readable checkpoint ({text[:200] or type(error).__name__}); expected one made by torch.save"
