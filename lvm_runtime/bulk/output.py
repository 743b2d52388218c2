"""Results on disk that survive being killed: a growing file, and a journal that says which parts of it are good.

`OUTPUT.part` is a `.npy` of the full size from the start, so that a disk without room says so before any work;
`OUTPUT.progress` is a journal of JSON lines: first what run this is, then number and checksum of each chunk that was
written, and its bad rows. A chunk counts only if its bytes still have the journal's checksum, so a journal line that
reached the disk before its data does no harm.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.corpus.npy import NpyFile, claim, write_header
from lvm_runtime.corpus.parquet import import_pyarrow
from lvm_runtime.errors import InvalidInput, LvmError
from lvm_runtime.system import atomic

_BLOCK_ROWS = 4096
_SYNC_BYTES = 1 << 24  # flushed behind the writers after so many, so that the disk works beside the model, not after it
SUFFIXES = (".npy", ".npz", ".parquet")


class Output:
    """Predictions `[rows, dim]` that are written in chunks of `chunk` rows.

    `identity` tells this run from any other: what is left of an interrupted one is taken up only if it is equal.
    """

    def __init__(self, path: Path, rows: int, dim: int, chunk: int, identity: dict[str, Any]) -> None:
        if path.suffix not in SUFFIXES:
            raise InvalidInput(f"{path}: unknown kind of file {path.suffix!r}; expected {', '.join(SUFFIXES)}")
        self.path, self.rows, self.dim, self.chunk = path, rows, dim, chunk
        self.part = path.with_name(path.name + ".part")
        self.progress = path.with_name(path.name + ".progress")
        self.sidecar = path.with_name(path.name + ".bad.csv")
        self.bad: dict[int, str] = {}
        self.done: set[int] = set()
        self._identity = identity | {"rows": rows, "dim": dim, "chunk": chunk}
        if not self._resume():
            self._begin()
        self._file = NpyFile.open(self.part)
        self._data = self.part.open("r+b", buffering=0)
        self._journal = self.progress.open("a")
        self._lock = threading.Lock()
        self._unsynced = 0
        self._syncing: Future[None] | None = None
        self._syncer = ThreadPoolExecutor(1, "lvm-sync")

    def chunks(self) -> list[tuple[int, int, int]]:
        """Return (number, first row, row after the last) of the chunks that are still to do."""
        starts = range(0, self.rows, self.chunk)
        return [(i, start, min(start + self.chunk, self.rows)) for i, start in enumerate(starts) if i not in self.done]

    def write(self, number: int, predictions: NDArray[np.float32], bad: dict[int, str]) -> None:
        """Store a chunk and enter it into the journal; `bad` maps rows that were not predicted to the reason.

        Threads may write different chunks at the same time.
        """
        data = np.ascontiguousarray(predictions)
        os.pwrite(self._data.fileno(), data.data.cast("B"), self._file.offset + number * self.chunk * self.dim * 4)
        line = json.dumps({"chunk": number, "checksum": checksum(data), "bad": bad})
        with self._lock:
            self._journal.write(line + "\n")
            self._journal.flush()
            self.done.add(number)
            self.bad |= bad
            self._unsynced += data.nbytes
            if self._unsynced >= _SYNC_BYTES and (self._syncing is None or self._syncing.done()):
                self._unsynced = 0
                self._syncing = self._syncer.submit(os.fsync, self._data.fileno())

    def finish(self, row_numbers: NDArray[np.int64]) -> None:
        """Turn the finished part into the output file, in one step, and write the list of bad rows beside it.

        `row_numbers` are the predictions' rows in the input, which `.npz` and `.parquet` carry along.
        """
        self.close()
        if self.bad:
            with atomic.replacing(self.sidecar) as temporary, temporary.open("w", newline="") as file:
                csv.writer(file).writerows([("prediction", "reason"), *sorted(self.bad.items())])
        if self.path.suffix == ".npy":
            atomic.sync_tree(self.part)
            self.part.replace(self.path)
        else:
            write = _write_npz if self.path.suffix == ".npz" else _write_parquet
            with atomic.replacing(self.path) as temporary:
                write(temporary, self._file, row_numbers)
            self.part.unlink()
        self.progress.unlink()

    def close(self) -> None:
        """Close the files and leave what is there for the next run."""
        self._syncer.shutdown()
        self._data.close()
        self._journal.close()

    def _begin(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.part.open("wb") as file:
            write_header(file, (self.rows, self.dim))
            size = file.tell() + self.rows * self.dim * 4
            try:
                claim(file.fileno(), size)
            except OSError as error:
                self.part.unlink()
                raise LvmError(f"{self.path} needs {size / 1e6:,.1f} MB: {error.strerror}") from error
        atomic.write_bytes(self.progress, (json.dumps(self._identity) + "\n").encode())

    def _resume(self) -> bool:
        """Take up an interrupted run; False if there is none. InvalidInput if it was another run than this one."""
        if not self.progress.exists() or not self.part.exists():
            return False
        lines = self.progress.read_text().splitlines()
        before = _parse(lines[0]) if lines else None
        if before != self._identity:
            names = sorted(set(before or {}) | set(self._identity))
            changed = [name for name in names if (before or {}).get(name) != self._identity.get(name)]
            raise InvalidInput(
                f"{self.progress} belongs to a run with other {', '.join(changed)}; "
                "run that one again, or give --restart to drop it"
            )
        part = NpyFile.open(self.part)
        for entry in filter(None, map(_parse, lines[1:])):
            start = entry["chunk"] * self.chunk
            data = part.read(start, min(start + self.chunk, self.rows))
            if checksum(data) == entry["checksum"]:
                self.done.add(entry["chunk"])
                self.bad |= {int(row): reason for row, reason in entry["bad"].items()}
        with self.progress.open("a") as journal:
            journal.write("\n")  # ends a line that was cut off
        return True


def checksum(block: NDArray[np.float32]) -> str:
    """Return a checksum of contiguous `block` `[b, D]`: the SHA-256 of the sums of its rows and columns as integers.

    It is there for what a crash leaves: pages that never reached the disk. A change within one row or one column always
    shows, any other but for one chance in 2^64. It takes a tenth of the time of a SHA-256 of everything.
    """
    word = np.uint64 if block.shape[1] % 2 == 0 else np.uint32
    words = block.view(word)
    digest = hashlib.sha256(np.add.reduce(words, axis=0, dtype=word).data)
    digest.update(np.add.reduce(words, axis=1, dtype=word).data)
    return digest.hexdigest()


def discard(path: Path) -> None:
    """Drop what an interrupted run left beside the output `path`."""
    for suffix in (".part", ".progress"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _parse(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None  # the line that was being written when the run was killed
    return entry if isinstance(entry, dict) else None


def _blocks(file: NpyFile, use: Callable[[int, NDArray[np.float32]], object]) -> None:
    for start in range(0, file.shape[0], _BLOCK_ROWS):
        use(start, file.read(start, min(start + _BLOCK_ROWS, file.shape[0])))


def _write_npz(path: Path, file: NpyFile, row_numbers: NDArray[np.int64]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        with archive.open("predictions.npy", "w", force_zip64=True) as member:
            write_header(member, file.shape)
            _blocks(file, lambda start, block: member.write(block.data.cast("B")))
        with archive.open("rows.npy", "w") as member:
            np.lib.format.write_array(member, row_numbers)


def _write_parquet(path: Path, file: NpyFile, row_numbers: NDArray[np.int64]) -> None:
    pyarrow, parquet = import_pyarrow()
    lists = pyarrow.list_(pyarrow.float32(), file.shape[1])
    schema = pyarrow.schema([("row", pyarrow.int64()), ("prediction", lists)])
    with parquet.ParquetWriter(path, schema) as writer:

        def add(start: int, block: NDArray[np.float32]) -> None:
            values = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(block.reshape(-1)), file.shape[1])
            numbers = pyarrow.array(row_numbers[start : start + len(block)])
            writer.write_table(pyarrow.table([numbers, values], schema=schema))

        _blocks(file, add)
