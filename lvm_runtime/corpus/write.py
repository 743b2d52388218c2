"""Write a corpus with its chunks as `.npz` or `.parquet`, part by part, so that it may be larger than memory.

N vectors, n vectors of a part, D vector.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.corpus.chunks import ENDS, FILES, MADE, METADATA
from lvm_runtime.corpus.parquet import import_pyarrow
from lvm_runtime.errors import InvalidInput
from lvm_runtime.system import atomic

WRITTEN = (".npz", ".parquet")
_GROUP_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Part:
    """Vectors `[n, D]` of one document with their texts, in order."""

    document: int
    vectors: NDArray[np.float16]
    texts: Sequence[str]


def require_kind(path: Path) -> None:
    """Raise InvalidInput unless a corpus can be written under such a name, BackendUnavailable without pyarrow."""
    if path.suffix not in WRITTEN:
        raise InvalidInput(f"{path}: a corpus is written as {' or '.join(WRITTEN)}; choose a name that ends in one")
    if path.suffix == ".parquet":
        import_pyarrow(path)


def write_corpus(
    path: Path, parts: Callable[[], Iterable[Part]], dim: int, files: Sequence[str], made: dict[str, Any]
) -> None:
    """Write what `parts()` yields, the same each time it is called, to `path` in one step.

    `files` are the names of the documents, `made` says how the corpus was made. Raises WriteFailed.
    """
    require_kind(path)
    with atomic.replacing(path) as temporary, atomic.writing(path):
        write = _write_npz if path.suffix == ".npz" else _write_parquet
        write(temporary, parts, dim, files, json.dumps(made))


def _write_npz(path: Path, parts: Callable[[], Iterable[Part]], dim: int, files: Sequence[str], made: str) -> None:
    documents = [np.full(len(part.texts), part.document, np.int32) for part in parts()]
    ids = np.concatenate(documents) if documents else np.empty(0, np.int32)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:

        def member(name: str, shape: tuple[int, ...], kind: str, blocks: Iterable[bytes]) -> None:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                header = {"descr": kind, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for block in blocks:
                    file.write(block)

        member("vectors", (len(ids), dim), "<f2", (part.vectors.tobytes() for part in parts()))
        ends = np.cumsum([len(_utf8(text)) for part in parts() for text in part.texts], dtype=np.int64)
        size = int(ends[-1]) if len(ends) else 0
        member("texts", (size,), "|u1", (b"".join(map(_utf8, part.texts)) for part in parts()))
        for name, array in (("doc_ids", ids), (ENDS, ends), (FILES, np.array(files, str)), (MADE, np.array(made))):
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array)


def _write_parquet(path: Path, parts: Callable[[], Iterable[Part]], dim: int, files: Sequence[str], made: str) -> None:
    pyarrow, parquet = import_pyarrow()
    columns = [("vectors", pyarrow.list_(pyarrow.float16(), dim)), ("doc_ids", pyarrow.string())]
    schema = pyarrow.schema([*columns, ("texts", pyarrow.string())], metadata={METADATA: made})
    with parquet.ParquetWriter(path, schema) as writer:
        for group in _groups(parts()):
            rows = np.concatenate([part.vectors for part in group]).reshape(-1)
            values = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows), dim)
            names = [_name(files[part.document]) for part in group for _ in part.texts]
            texts = [_utf8(text).decode() for part in group for text in part.texts]
            writer.write_table(pyarrow.table([values, pyarrow.array(names), pyarrow.array(texts)], schema=schema))


def _groups(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """Yield the parts of one row group each, so few that a look at ten texts reads few others."""
    group: list[Part] = []
    rows = 0
    for part in parts:
        group.append(part)
        rows += len(part.texts)
        if rows >= _GROUP_ROWS:
            yield group
            group, rows = [], 0
    if group:
        yield group


def _name(file: str) -> str:
    """Return a file's name in what UTF-8 has. No two become the same, or their documents would be one."""
    return file.encode("utf-8", "backslashreplace").decode()


def _utf8(text: str) -> bytes:
    """Return `text` in UTF-8; lone halves of surrogate pairs, which UTF-8 does not have, become question marks."""
    return text.encode("utf-8", "replace")
