"""Results on disk that survive being killed: a growing file, and a journal that says which parts of it are good.

The part is a `.npy` of the full size from the start, so that a disk without space says so before any work.
"""

from __future__ import annotations

import csv
import os
import threading
import zipfile
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.bulk import journal
from lvm_runtime.bulk.destination import Destination
from lvm_runtime.corpus.npy import NpyFile, write_header
from lvm_runtime.corpus.parquet import import_pyarrow
from lvm_runtime.errors import InvalidInput, LvmError
from lvm_runtime.system import atomic
from lvm_runtime.system.files import claim, write_at

_ROWS_AT_ONCE = 4096
SYNC_BYTES = 1 << 24
"""After so many bytes a thread flushes what was written, so that the disk works beside the model, not after it."""


RowNumbers = Callable[[int, int], NDArray[np.int64]]
"""From predictions start to stop to their rows in the input, which `.npz` and `.parquet` carry along."""


class Output:
    """Predictions `[rows, dim]` that are written in blocks of `block` rows, under the destination's lock.

    `identity` tells this run from any other: what is left of an interrupted one is taken up only if it is equal.
    """

    def __init__(
        self,
        place: Destination,
        rows: int,
        dim: int,
        block: int,
        identity: dict[str, Any],
        row_numbers: RowNumbers,
    ) -> None:
        if place.path.suffix == ".parquet":
            import_pyarrow(place.path)
        self.place, self.rows, self.dim, self.block = place, rows, dim, block
        self._row_numbers = row_numbers
        self.bad: dict[int, str] = {}
        self.done: set[int] = set()
        self._identity = identity | {"rows": rows, "dim": dim, "block": block}
        with atomic.writing(place.part):
            if not self._resume():
                self._begin()
            part = NpyFile.open(place.part)
            self._offset = part.offset
            self._table = _TableBehind(place.path, part, row_numbers) if place.path.suffix == ".parquet" else None
            self._data = place.part.open("r+b", buffering=0)
            self._journal = place.progress.open("a")
        self._next, self._early = 0, set[int]()  # the first block that is not there yet, and those after it that are
        self._lock = threading.Lock()
        self._lines: list[str] = []
        self._unsynced = 0
        self._syncing: Future[None] | None = None
        self._syncer = ThreadPoolExecutor(1, "lvm-sync")

    def blocks(self) -> list[tuple[int, int, int]]:
        """Return (number, first row, row after the last) of the blocks that are still to do."""
        starts = range(0, self.rows, self.block)
        return [(i, start, min(start + self.block, self.rows)) for i, start in enumerate(starts) if i not in self.done]

    def write(self, number: int, predictions: NDArray[np.float32], bad: dict[int, str]) -> None:
        """Store a block; `bad` maps rows that were not predicted to the reason. LvmError if that fails.

        Threads may write different blocks at the same time.
        """
        data = np.ascontiguousarray(predictions).data.cast("B")
        place = self._offset + number * self.block * self.dim * 4
        with atomic.writing(self.place.part):
            self._check_whole()
            write_at(self._data.fileno(), data, place)
        with self._lock:
            self._lines.append(journal.entry(number, bad))
            self.bad |= bad
            if self._table is not None:
                self._early.add(number)
                while self._next in self._early or self._next in self.done:
                    self._early.discard(self._next)
                    self._next += 1
                self._table.extend(min(self._next * self.block, self.rows))
            self._unsynced += predictions.nbytes
            if self._unsynced >= SYNC_BYTES and (self._syncing is None or self._syncing.done()):
                if self._syncing is not None:
                    self._syncing.result()
                self._syncing = self._syncer.submit(self._sync)

    def finish(self) -> None:
        """Turn the finished part into the output file, in one step, and write the list of bad rows beside it."""
        try:
            self._flush()
            with atomic.writing(self.place.path):
                self._finish()
        except BaseException:
            if self._table is not None:
                self._table.discard()
            raise

    def _finish(self) -> None:
        path, part = self.place.path, self.place.part
        if self.bad:
            with atomic.replacing(self.place.sidecar) as temporary, temporary.open("w", newline="") as file:
                csv.writer(file).writerows([("prediction", "reason"), *sorted(self.bad.items())])
        else:
            self.place.sidecar.unlink(missing_ok=True)  # of an output that is replaced
        if path.suffix == ".npy":
            atomic.move(part, path)
        else:
            if self._table is not None:
                self._table.finish()
            else:
                with atomic.replacing(path) as temporary:
                    _write_npz(temporary, NpyFile.open(part), self._row_numbers)
            part.unlink()
        self.place.progress.unlink()

    def close(self) -> None:
        """Flush what was written, enter it into the journal, and leave the files for the next run."""
        if self._table is not None:
            self._table.discard()
        self._flush()

    def _flush(self) -> None:
        self._syncer.shutdown()
        try:
            if self._syncing is not None:
                self._syncing.result()
            self._sync()
        finally:
            self._data.close()
            self._journal.close()

    def _sync(self) -> None:
        with self._lock:
            lines, self._lines, self._unsynced = self._lines, [], 0
        with atomic.writing(self.place.part):
            os.fsync(self._data.fileno())
            self._check_whole()
            self._journal.write("".join(lines))
            self._journal.flush()

    def _check_whole(self) -> None:
        """Raise LvmError if the part is no longer the whole file that this run began."""
        mine, there = os.fstat(self._data.fileno()), self.place.part.stat()
        if not os.path.samestat(mine, there) or mine.st_size != self._size:
            raise LvmError(f"{self.place.part}: another program changed it; give --restart to begin again")

    @property
    def _size(self) -> int:
        return self._offset + self.rows * self.dim * 4

    def _begin(self) -> None:
        part = self.place.part
        part.unlink(missing_ok=True)  # it may be the second name of another file
        with part.open("xb") as file:
            write_header(file, (self.rows, self.dim))
            size = file.tell() + self.rows * self.dim * 4
            try:
                claim(file.fileno(), size)
            except OSError as error:
                part.unlink()
                raise LvmError(f"{self.place.path} needs {size / 1e6:,.1f} MB: {error.strerror}") from error
        atomic.write_bytes(self.place.progress, journal.heading(self._identity).encode())

    def _resume(self) -> bool:
        """Take up an interrupted run; False if there is none. InvalidInput if it was another run than this one."""
        if not self.place.progress.exists() or not self.place.part.exists():
            return False
        found = journal.read(self.place.progress, self._identity, self.block, self.rows)
        try:
            part = NpyFile.open(self.place.part)
        except InvalidInput:
            return False
        whole = part.offset + part.nbytes == self.place.part.stat().st_size
        if (part.shape, part.dtype) != ((self.rows, self.dim), np.dtype("<f4")) or not whole:
            return False
        for number, bad in found.items():
            self.done.add(number)
            self.bad |= bad
        with self.place.progress.open("a") as file:
            file.write("\n")  # ends a line that was cut off
        return True


def _write_npz(path: Path, file: NpyFile, row_numbers: RowNumbers) -> None:
    rows = file.shape[0]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        with archive.open("predictions.npy", "w", force_zip64=True) as member:
            write_header(member, file.shape)
            for start in range(0, rows, _ROWS_AT_ONCE):
                member.write(file.read(start, min(start + _ROWS_AT_ONCE, rows)).data.cast("B"))
        with archive.open("rows.npy", "w") as member:
            np.lib.format.write_array(member, row_numbers(0, rows))


class _TableBehind:
    """A Parquet output that a thread writes behind the run, from the part: one writer takes as long as several models.

    It is begun anew by each run, since nothing can be added to what a killed one left.
    """

    def __init__(self, path: Path, part: NpyFile, row_numbers: RowNumbers) -> None:
        self._path, self._part, self._row_numbers = path, part, row_numbers
        self._thread = ThreadPoolExecutor(1, "lvm-parquet")
        self._asked = 0
        self._pending: deque[Future[None]] = deque()
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic.replacing(path))
            self._table = stack.enter_context(PredictionTable(temporary, part.shape[1]))
            self._open = stack.pop_all()

    def extend(self, rows: int) -> None:
        """Have the first `rows` of the part written, in steps. Raises what a step before raised."""
        while self._pending and self._pending[0].done():
            self._pending.popleft().result()
        while rows - self._asked >= _ROWS_AT_ONCE or rows == self._part.shape[0] > self._asked:
            stop = min(self._asked + _ROWS_AT_ONCE, rows)
            self._pending.append(self._thread.submit(self._add, self._asked, stop))
            self._asked = stop

    def finish(self) -> None:
        """Write what is left, and put the file into its place."""
        self.extend(self._part.shape[0])
        while self._pending:
            self._pending.popleft().result()
        self._thread.shutdown()
        self._open.close()

    def discard(self) -> None:
        """End the thread and remove the file."""
        self._thread.shutdown(cancel_futures=True)
        stopped = RuntimeError("not to take its place")
        with suppress(OSError):  # a full disk does not take the end of the file either
            self._open.__exit__(type(stopped), stopped, None)

    def _add(self, start: int, stop: int) -> None:
        with atomic.writing(self._path):
            self._table.add(self._row_numbers(start, stop), self._part.read(start, stop))


class PredictionTable:
    """A Parquet file of predictions `[n, D]` and the rows that they belong to, as it grows."""

    def __init__(self, path: Path, dim: int) -> None:
        self._arrow, parquet = import_pyarrow(path)
        lists = self._arrow.list_(self._arrow.float32(), dim)
        self._schema = self._arrow.schema([("row", self._arrow.int64()), ("prediction", lists)])
        self._writer = parquet.ParquetWriter(  # no number comes twice, and nobody looks up a smallest component
            path, self._schema, use_dictionary=False, compression="none", write_statistics=["row"]
        )

    def add(self, rows: NDArray[np.int64], predictions: NDArray[np.float32]) -> None:
        """Append predictions `[n, D]` for `rows` `[n]`."""
        flat = self._arrow.array(predictions.reshape(-1))
        values = self._arrow.FixedSizeListArray.from_arrays(flat, predictions.shape[1])
        self._writer.write_table(self._arrow.table([self._arrow.array(rows), values], schema=self._schema))

    def note(self, name: str, text: str) -> None:
        """Put a text into the file's metadata."""
        self._writer.add_key_value_metadata({name: text})

    def __enter__(self) -> PredictionTable:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()
