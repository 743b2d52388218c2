"""Predictions for files that are larger than memory; interrupted at any moment, a second run goes on.

Blocks are independent, so as many are in work as there are CPUs for: each thread takes one from the file through the
model to the output. Reading, checking and writing then use a CPU that waits for nobody, and the model too.

b rows of a block, n vectors that they need, T context length, D vector.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.arguments import file_name, instance
from lvm_runtime.artifact.folder import read_config, resolve
from lvm_runtime.backends.registry import backend_class
from lvm_runtime.bulk.destination import Destination, keep_out
from lvm_runtime.bulk.output import Output
from lvm_runtime.bulk.source import Source
from lvm_runtime.contexts import bad_rows, describe_bad_row
from lvm_runtime.corpus.corpus import open_corpus, require_corpus
from lvm_runtime.corpus.formats import files_with_ids
from lvm_runtime.errors import InvalidInput, LvmError
from lvm_runtime.predictor import Predictor
from lvm_runtime.request import Request
from lvm_runtime.system.cpus import usable_cpus

BLOCK = 256  # one run of a Predictor, and its result goes to the disk without another copy
MOST_WORKERS = 8  # each holds a block in memory


@dataclass(frozen=True, slots=True)
class BulkResult:
    """How many predictions a run wrote, took over from an interrupted one and set aside as bad, and remarks.

    >>> BulkResult(predictions=96, resumed=32, bad=0).resumed
    32
    """

    predictions: int
    resumed: int
    bad: int
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """One block's input: contexts `[b, T, D]`, or vectors `[n, D]` with the first vector of each of its b windows."""

    first: int
    count: int
    values: NDArray[Any]
    starts: NDArray[np.int64] | None

    def contexts(self, rows: NDArray[np.intp], length: int) -> NDArray[Any]:
        """Return the contexts `[r, T, D]` of `rows` `[r]` of the block."""
        if self.starts is None:
            return self.values[rows]
        return self.values[self.starts[rows][:, None] + np.arange(length)]

    def bad(self, length: int, largest_norm: float) -> NDArray[np.intp]:
        """Return the rows that hold a NaN, an infinity, or a vector that is too long."""
        bad = bad_rows(self.values, largest_norm)
        if self.starts is None or not len(bad):
            return bad
        spoiled = np.zeros(len(self.values) + 1, np.int64)  # a bad vector spoils every window that it is in
        spoiled[bad + 1] = 1
        before = np.cumsum(spoiled)
        return np.flatnonzero(before[self.starts + length] > before[self.starts])


def open_for_bulk(artifact: str | Path, request: Request) -> Predictor:
    """Open the form that `request` gets for large batches, with the CPUs shared out to several runs at once.

    One run on every CPU waits in each product for the thread that reading or writing has slowed down: 0.79 of the
    model's own speed (AMN, two cores) against 0.95 with two runs of one thread each. A number of threads that was
    asked for is used.
    """
    return open_with_threads(artifact, request, -(-usable_cpus() // MOST_WORKERS))


def open_with_threads(artifact: str | Path, request: Request, threads: int) -> Predictor:
    """Open the form that `request` gets, with `threads` if it leaves that open and several runs share the CPUs."""
    predictor = Predictor.from_request(artifact, request)
    running = predictor.explain().running
    if request.threads is not None or running.device not in backend_class(running.backend).several_runs:
        return predictor
    if running.threads == threads:
        return predictor
    predictor.close()
    backend, device, precision = running.backend, running.device, running.precision
    wanted = replace(request, backend=backend, device=device, precision=precision, threads=threads)
    return Predictor.from_request(artifact, wanted)


def predict_file(
    predictor: Predictor,
    source: str | Path,
    target: str | Path,
    *,
    skip_bad: bool = False,
    restart: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> BulkResult:
    """Predict every context or window of the file `source` into the file `target`.

    `lvm_runtime.corpus.formats` says what is read; `.npy`, `.npz` and `.parquet` are written. With `skip_bad`, rows
    with NaN, infinity or a vector that is too long are NaN in the output and listed in `target`.bad.csv; otherwise the
    first one is an InvalidInput, and what came before it is kept for a second run. `restart` drops an interrupted run
    instead of going on with it. A `predictor` from `open_for_bulk` is the fastest.

    >>> np.save("eight.npy", np.ones((8, 5, 384), np.float32))
    >>> with Predictor("artifacts/amn", threads=1) as predictor:
    ...     predict_file(predictor, "eight.npy", "eight-predicted.npy", progress=False)
    BulkResult(predictions=8, resumed=0, bad=0, remarks=())
    """
    instance(predictor, Predictor, "predictor")
    source, inputs, place = _places(source, target, predictor.artifact.path, overwrite)
    with place.locked():
        place.check(inputs, overwrite=overwrite)  # another run may have ended since
        if restart:
            place.discard()
        return _predict(predictor, source, inputs, place, skip_bad, progress)


def look_first(artifact: str | Path, source: str | Path, target: str | Path, *, overwrite: bool) -> None:
    """Raise what `predict_file` would raise for these names and for the shape of the input, before a model is loaded.

    A look at the numbers of the input, and at a column of ids, is left to the run.
    """
    config = read_config(artifact)
    source, _, _ = _places(source, target, resolve(artifact), overwrite)
    require_corpus(source, context_length=config.context_length, dim=config.dim)


def _places(
    source: str | Path, target: str | Path, artifact: Path, overwrite: bool
) -> tuple[Path, list[Path], Destination]:
    """Return the source, it and what belongs to it, and the destination, if it may be written."""
    source, place = file_name(source, "source"), Destination(file_name(target, "target"))
    inputs = files_with_ids(source)
    place.check(inputs, overwrite=overwrite)
    keep_out(place.path, artifact)
    return source, inputs, place


def _predict(
    predictor: Predictor, source: Path, inputs: list[Path], place: Destination, skip_bad: bool, progress: bool
) -> BulkResult:
    length, dim = predictor.config.context_length, predictor.config.dim
    before = _states(inputs)
    corpus = open_corpus(source, context_length=length, dim=dim, scratch=place.path.parent)
    rows = Source(corpus, length)
    output = Output(place, len(rows), dim, BLOCK, _identity(predictor, before), rows.rows)
    if output.bad and not skip_bad:
        output.close()
        row = min(output.bad)
        raise InvalidInput(
            f"{source.name}: {output.bad[row]}; an interrupted run set it aside; give --skip-bad to go on with that, "
            "or --restart to begin again"
        )
    resumed = sum(min(BLOCK, len(rows) - number * BLOCK) for number in output.done)

    def check_inputs() -> None:
        if [state[:4] for state in _states(inputs)] != [state[:4] for state in before]:
            raise LvmError(f"{source}: another program changed it during the run; give --restart to begin again")

    try:
        _run(predictor, rows, output, skip_bad, check_inputs, _bar(len(rows), resumed, progress))
        check_inputs()
    except BaseException:
        with suppress(LvmError):  # the first error is the one to report
            output.close()
        raise
    output.finish()
    return BulkResult(len(rows), resumed, len(output.bad), corpus.remarks)


def _run(
    predictor: Predictor, source: Source, output: Output, skip_bad: bool, check_inputs: Callable[[], None], bar: Any
) -> None:
    def work(number: int, start: int, stop: int) -> int:
        check_inputs()  # the system ends a process that reads a mapped file beyond its new end
        output.write(number, *predict_part(predictor, source, start, stop, skip_bad))
        return stop - start

    workers = workers_for(predictor)
    with ThreadPoolExecutor(workers, "lvm-bulk") as pool, bar:
        ahead: deque[Future[int]] = deque()
        try:
            for block in output.blocks():
                ahead.append(pool.submit(work, *block))
                if len(ahead) > workers:
                    bar.update(ahead.popleft().result())  # in order, so that the first bad row is the one reported
            while ahead:
                bar.update(ahead.popleft().result())
        finally:
            pool.shutdown(cancel_futures=True)


def workers_for(predictor: Predictor) -> int:
    """Return how many blocks to have in work: one for each run that the CPUs hold, and two at least."""
    threads = predictor.explain().running.threads
    return min(MOST_WORKERS, max(2, usable_cpus() // (threads or usable_cpus())))


def predict_part(
    predictor: Predictor, source: Source, start: int, stop: int, skip_bad: bool
) -> tuple[NDArray[np.float32], dict[int, str]]:
    """Return predictions start to stop of a source `[b, D]`, and why some of them are NaN.

    Without `skip_bad` the first bad row is an InvalidInput. What was read is handed back to the system.
    """
    norm = predictor.largest_norm
    block = Block(start, stop - start, *source.read(start, stop))
    try:
        predictions, reasons = predict_block(predictor, block), {}
    except InvalidInput:
        bad = block.bad(source.context_length, norm)  # none, if the value is in a document too short for a window
        reasons = {start + int(row): _reason(block, source, int(row), norm) for row in bad}
        if len(bad) and not skip_bad:
            first = reasons[start + int(bad[0])]
            message = f"{source.name}: {first}; give --skip-bad to set such rows aside and go on"
            raise InvalidInput(message) from None
        predictions = predict_good(predictor, block, bad)
    source.release(start, stop)
    return predictions, reasons


def predict_block(predictor: Predictor, block: Block) -> NDArray[np.float32]:
    """Return the block's predictions `[b, D]`; InvalidInput if any of its values is not finite."""
    if block.starts is None:
        return predictor.predict(block.values)
    if len(block.values) > 2 * block.count:  # documents so short that most vectors start no window
        return predictor.predict(block.contexts(np.arange(block.count), predictor.config.context_length))
    predictions = predictor.predict_sequence(block.values)
    return predictions if len(predictions) == block.count else predictions[block.starts]


def predict_good(predictor: Predictor, block: Block, bad: NDArray[np.intp]) -> NDArray[np.float32]:
    """Return the block's predictions `[b, D]`, NaN for its bad rows."""
    good = np.setdiff1d(np.arange(block.count), bad)
    predictions = np.full((block.count, predictor.config.dim), np.nan, np.float32)
    predictions[good] = predictor.predict(block.contexts(good, predictor.config.context_length))
    return predictions


def _reason(block: Block, source: Source, row: int, largest_norm: float) -> str:
    values, first = block.values[row : row + 1], int(source.rows(block.first + row, block.first + row + 1)[0])
    if block.starts is not None:
        start = int(block.starts[row])
        values = block.values[start : start + source.context_length]
        first -= source.context_length - 1
    with np.errstate(over="ignore"):
        return describe_bad_row(values, values.astype(np.float32), first, largest_norm)


def _states(inputs: list[Path]) -> list[list[Any]]:
    """Return path, size, time, inode and time of the last change of any kind for each input that is there.

    The system sets the last one, and nobody else can: contents that change while size and time stay show in it.
    """
    stats = [(path, path.stat()) for path in inputs if path.exists()]
    return [[str(path.absolute()), s.st_size, s.st_mtime_ns, s.st_ino, s.st_ctime_ns] for path, s in stats]


def _identity(predictor: Predictor, inputs: list[list[Any]]) -> dict[str, Any]:
    compiled = predictor.artifact.manifest.compiled
    running = predictor.explain().running
    hashes = {c.file.path: c.file.sha256 for c in compiled}
    return {
        "input": inputs,
        "weights": predictor.artifact.manifest.model,
        "model": [str(running), hashes.get(running.file)],
        "sequence": [c.file.sha256 for c in compiled if c.form == "sequence"],
    }


def _bar(total: int, done: int, wanted: bool) -> Any:
    from tqdm import tqdm

    # None lets tqdm decide: a bar on a terminal, silence in a log file
    return tqdm(total=total, initial=done, unit=" predictions", unit_scale=True, disable=None if wanted else True)
