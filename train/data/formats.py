"""Reading corpora from the files people have.

    corpus.npz                 vectors [N, D], doc_ids [N]
    corpus.npy + corpus.ids.npy    the same as a pair, memory-mapped: may be larger than memory
    corpus.parquet             columns vector (fixed-size list) and doc_id; memory-mapped where uncompressed
    windows.npz                contexts [n, T, D] and targets [n, D] under any of the names below

N vectors, n windows, T context length, D vector.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.errors import InvalidInput

CONTEXT_KEYS = ("context_sequences", "contexts", "train_context_sequences")
TARGET_KEYS = ("target_vectors", "targets", "train_target_vectors")
EXPECTED = (
    "expected an .npz with vectors [N, D] and doc_ids [N] (or contexts [n, T, D] and targets [n, D]), "
    "an .npy with a .ids.npy beside it, or a .parquet with columns vector and doc_id"
)


@dataclass(frozen=True, slots=True)
class RawCorpus:
    """Vectors `[N, D]`, ascending ids `[N]`, and the groups a split must respect (None: not known)."""

    vectors: NDArray[Any]
    doc_ids: NDArray[np.int64]
    groups: NDArray[np.int64] | None


def read_corpus(path: Path, *, trust_pickle: bool = False) -> RawCorpus:
    """Read a corpus by its suffix. Raises InvalidInput with what came and what was expected."""
    if not path.exists():
        raise InvalidInput(f"{path}: no such file; expected bundled, synthetic or the path of a corpus")
    readers = {".npz": _read_npz, ".npy": _read_pair, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise InvalidInput(f"{path}: suffix {path.suffix!r} is not known; {EXPECTED}")
    try:
        return readers[path.suffix](path, trust_pickle)
    except InvalidInput:
        raise
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise InvalidInput(f"{path}: cannot be read ({error}); {EXPECTED}") from error


def _read_npz(path: Path, trust_pickle: bool) -> RawCorpus:
    with np.load(path, allow_pickle=trust_pickle) as arrays:
        if not hasattr(arrays, "files"):
            raise InvalidInput(f"{path}: holds a bare array; {EXPECTED}")
        keys = arrays.files
        if "vectors" in keys and "doc_ids" in keys:
            return _checked(path, _array(arrays, "vectors", path), _array(arrays, "doc_ids", path))
        context_key = next((k for k in CONTEXT_KEYS if k in keys), None)
        target_key = next((k for k in TARGET_KEYS if k in keys), None)
        if context_key and target_key:
            contexts, targets = _array(arrays, context_key, path), _array(arrays, target_key, path)
            articles = _articles(arrays, path) if "metadata" in keys else None
            return windows_as_corpus(path, contexts, targets, articles)
        raise InvalidInput(f"{path}: has keys {', '.join(keys) or 'none'}; {EXPECTED}")


def _array(arrays: Any, key: str, path: Path) -> NDArray[Any]:
    try:
        array = arrays[key]
    except ValueError as error:
        if "pickle" not in str(error) and "Object" not in str(error):
            raise
        raise InvalidInput(
            f"{path}: {key} is an object array, and reading one runs code of the file's maker; "
            "pass --trust-pickle if you vouch for the file"
        ) from error
    if array.dtype == object and key != "metadata":
        try:
            return np.stack([np.asarray(item, dtype=np.float32) for item in array])
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"{path}: {key} holds objects that are not arrays of one shape ({error})") from error
    return array


def _articles(arrays: Any, path: Path) -> NDArray[np.int64] | None:
    """Return `article_index` of each window, from metadata as objects, JSON strings or a structured array."""
    metadata = _array(arrays, "metadata", path)
    if metadata.dtype.names and "article_index" in metadata.dtype.names:
        return metadata["article_index"].astype(np.int64)
    records = metadata.reshape(-1).tolist()
    try:
        rows = [json.loads(item) if isinstance(item, str) else item for item in records]
        return np.array([row["article_index"] for row in rows], dtype=np.int64)
    except (KeyError, TypeError, ValueError):
        return None  # metadata without article_index: the split falls back to a gap, and says so


def _read_pair(path: Path, trust_pickle: bool) -> RawCorpus:
    ids = path.with_suffix(".ids.npy")
    if not ids.exists():
        raise InvalidInput(f"{path}: {ids.name} is missing beside it; {EXPECTED}")
    return _checked(path, np.load(path, mmap_mode="r"), np.load(ids))


def _read_parquet(path: Path, trust_pickle: bool) -> RawCorpus:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise InvalidInput(f"{path}: reading Parquet needs: pip install 'lvm_runtime[train]'") from error
    try:
        table = pq.read_table(path, memory_map=True)
    except pa.ArrowException as error:
        raise InvalidInput(f"{path}: not a Parquet file ({error}); {EXPECTED}") from error
    if not {"vector", "doc_id"} <= set(table.column_names):
        raise InvalidInput(f"{path}: has columns {', '.join(table.column_names)}; expected vector and doc_id")
    column = table.column("vector").combine_chunks()
    if not pa.types.is_fixed_size_list(column.type):
        raise InvalidInput(f"{path}: column vector is {column.type}, expected a fixed-size list of floats")
    values = column.flatten().to_numpy(zero_copy_only=False)
    vectors = values.reshape(len(column), column.type.list_size)
    return _checked(path, vectors, table.column("doc_id").to_numpy())


def _checked(path: Path, vectors: NDArray[Any], ids: NDArray[Any]) -> RawCorpus:
    if vectors.ndim != 2 or ids.shape != vectors.shape[:1]:
        raise InvalidInput(f"{path}: vectors {vectors.shape} and doc_ids {ids.shape}; expected [N, D] and [N]")
    if vectors.dtype not in (np.float16, np.float32, np.float64):
        raise InvalidInput(f"{path}: vectors are {vectors.dtype}, expected float16, float32 or float64")
    if ids.dtype.kind not in "iu":
        raise InvalidInput(f"{path}: doc_ids are {ids.dtype}, expected integers")
    ids = ids.astype(np.int64)
    if (np.diff(ids) < 0).any():
        row = int(np.flatnonzero(np.diff(ids) < 0)[0]) + 1
        raise InvalidInput(f"{path}: doc_ids fall from {ids[row - 1]} to {ids[row]} at row {row}; expected ascending")
    return RawCorpus(vectors, ids, ids)


def windows_as_corpus(
    path: Path, contexts: NDArray[Any], targets: NDArray[Any], articles: NDArray[np.int64] | None
) -> RawCorpus:
    """Turn windows `[n, T, D]` and targets `[n, D]` into a corpus of n documents of T + 1 vectors each."""
    if contexts.ndim != 3 or targets.shape != (contexts.shape[0], contexts.shape[2]):
        raise InvalidInput(
            f"{path}: contexts {contexts.shape} and targets {targets.shape}; expected [n, T, D] and [n, D]"
        )
    if contexts.dtype.kind != "f":
        raise InvalidInput(f"{path}: contexts are {contexts.dtype}, expected floats")
    if articles is not None and len(articles) != len(contexts):
        raise InvalidInput(f"{path}: metadata has {len(articles)} entries for {len(contexts)} windows")
    n, steps, dim = contexts.shape
    vectors = np.concatenate([contexts, targets[:, None]], axis=1).reshape(n * (steps + 1), dim)
    ids = np.repeat(np.arange(n, dtype=np.int64), steps + 1)
    groups = None if articles is None else np.repeat(articles, steps + 1)
    return RawCorpus(vectors, ids, groups)
