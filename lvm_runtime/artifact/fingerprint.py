"""Probe contexts and the answers that a model is known to give to them.

Every backend answers the probes when it is built. Shapes and file formats cannot tell a model from a
look-alike with another activation; behaviour can.

n probes, T context length, D vector.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.artifact.limits import MOST_PROBES
from lvm_runtime.errors import ArtifactError, InvalidInput

RANDOM_PROBES = 16
REAL_PROBES = 16

_TYPES = {"contexts": "<f4", "predictions": "<f8", "attention": "<f8"}
_NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(<f[48])', 'fortran_order': False, 'shape': \(((?:\d{1,9},? ?){2,3})\), \} *\n",
    re.DOTALL,
)
"""The header that numpy writes for such an array. numpy reads others too, with a parser of Python literals, and
believes their shape before it looks at the data."""

_ZIP_END = struct.Struct("<4s6sHI6s")
"""The end of a zip: signature, disks, number of parts, bytes of their list, its place (and no comment)."""
_LARGEST_DIRECTORY = 1024  # bytes; three parts take 180


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Probes `contexts` float32 `[n, T, D]`, float64 answers `predictions` `[n, D]`, `attention` `[n, T]` or None."""

    contexts: NDArray[np.float32]
    predictions: NDArray[np.float64]
    attention: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        n = self.contexts.shape[0]
        if self.contexts.ndim != 3 or self.predictions.shape != (n, self.contexts.shape[2]):
            raise InvalidInput(
                f"fingerprint: contexts {self.contexts.shape} and predictions {self.predictions.shape} do not fit; "
                "expected [n, T, D] and [n, D]"
            )
        if self.attention is not None and self.attention.shape != self.contexts.shape[:2]:
            raise InvalidInput(f"fingerprint: attention {self.attention.shape}, expected {self.contexts.shape[:2]}")
        if not 1 <= n <= MOST_PROBES:
            raise InvalidInput(f"fingerprint: {n} probes, expected 1 to {MOST_PROBES}")
        for name in _TYPES:
            values = getattr(self, name)
            if values is not None and not np.isfinite(values).all():
                raise InvalidInput(f"fingerprint: {name} hold a NaN or an infinity; expected finite numbers")

    @property
    def real(self) -> NDArray[np.float32]:
        """The probes that come from documents `[m, T, D]`, none if the model was made without any."""
        return self.contexts[RANDOM_PROBES:]

    def to_bytes(self) -> bytes:
        """Serialise as an uncompressed `.npz`."""
        arrays = {
            name: np.ascontiguousarray(getattr(self, name), dtype)
            for name, dtype in _TYPES.items()
            if getattr(self, name) is not None
        }
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, source: str) -> Fingerprint:
        """Read what `to_bytes` wrote; `source` names the file in the ArtifactError for anything else.

        No more memory is taken than `data` has: its parts are uncompressed, and their shapes must fit their sizes.
        """
        try:
            _check_directory(data)
            with zipfile.ZipFile(io.BytesIO(data)) as parts:
                arrays = {part.filename.removesuffix(".npy"): _read_part(parts, part) for part in parts.infolist()}
            if not {"contexts", "predictions"} <= set(arrays) <= set(_TYPES):
                raise ValueError(f"it has {', '.join(sorted(arrays))[:200] or 'no arrays'}")
            return cls(**arrays)
        # zipfile raises RuntimeError and NotImplementedError for encrypted and unusual parts
        except (ValueError, OSError, EOFError, RuntimeError, struct.error, zipfile.BadZipFile) as error:
            raise ArtifactError(f"{source}: not a fingerprint ({error}); expected contexts and predictions") from error


def _check_directory(data: bytes) -> None:
    """Refuse a zip whose list of parts is long: zipfile would build an object for each of millions of entries."""
    end = data[-_ZIP_END.size :]
    if len(end) == _ZIP_END.size:
        signature, _, entries, size, _ = _ZIP_END.unpack(end)
        if signature == b"PK\x05\x06" and data[-42:-38] != b"PK\x06\x07":  # a second directory, of large archives
            if entries > len(_TYPES) or size > _LARGEST_DIRECTORY:
                raise ValueError(f"it has {entries} parts")
            return
    raise ValueError("it does not end like a zip of numpy's")


def _read_part(parts: zipfile.ZipFile, part: zipfile.ZipInfo) -> NDArray[Any]:
    if part.compress_type != zipfile.ZIP_STORED or part.file_size != part.compress_size:
        raise ValueError(f"{part.filename[:99]!r} is compressed, and probes are stored as they are")
    data = parts.read(part)
    header = _NPY_HEADER.match(data)
    if header is None:
        raise ValueError(f"{part.filename[:99]!r} does not begin like an array of probes")
    shape = tuple(int(n) for n in header[2].decode().split(",") if n.strip())
    dtype = np.dtype(header[1].decode())
    if dtype.str != _TYPES.get(part.filename.removesuffix(".npy")):
        raise ValueError(f"{part.filename[:99]!r} holds {dtype.str}")
    if math.prod(shape) * dtype.itemsize != len(data) - header.end():
        raise ValueError(f"{part.filename[:99]!r} has shape {shape}, and {len(data) - header.end()} bytes")
    return np.frombuffer(data, dtype, offset=header.end()).reshape(shape).copy()  # torch warns of read-only arrays


def random_contexts(count: int, context_length: int, dim: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Return unit vectors `[count, T, D]` float32 that share a direction and, within a context, a topic.

    Document vectors share a mean direction and drift along a topic. Zeros or independent noise would leave most of a
    model unexercised.
    """
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal(dim)
    topic = rng.standard_normal((count, 1, dim))
    contexts = shared + topic + rng.standard_normal((count, context_length, dim))
    contexts /= np.linalg.norm(contexts, axis=2, keepdims=True)
    return contexts.astype(np.float32)


def probe_contexts(dim: int, context_length: int, real: NDArray[np.floating] | None = None) -> NDArray[np.float32]:
    """Return `[n, T, D]` float32 probes: 16 random contexts, and up to 16 of the `real` ones."""
    parts = [random_contexts(RANDOM_PROBES, context_length, dim)]
    if real is not None and len(real):
        if real.shape[1:] != (context_length, dim):
            raise InvalidInput(f"real contexts have shape {real.shape}, expected [n, {context_length}, {dim}]")
        parts.append(real[np.linspace(0, len(real) - 1, min(REAL_PROBES, len(real))).astype(int)].astype(np.float32))
    return np.concatenate(parts)
