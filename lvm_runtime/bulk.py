"""Predictions for files that are larger than memory; interrupted at any moment, a second run goes on.

Reading, predicting and writing overlap: one thread reads ahead, one writes behind, and the model has the caller's.

b rows of a chunk, T context length, D vector.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.bulk_input import Source, open_source
from lvm_runtime.bulk_output import Output, discard
from lvm_runtime.contexts import bad_rows, describe_bad_row
from lvm_runtime.errors import InvalidInput
from lvm_runtime.predictor import Predictor

CHUNK = 1024
_AHEAD = 2


@dataclass(frozen=True, slots=True)
class BulkResult:
    """How many predictions a run wrote, took over from an interrupted one, and set aside as bad."""

    predictions: int
    resumed: int
    bad: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk's input: contexts `[b, T, D]`, or vectors with the first vector of each of its b windows."""

    number: int
    first: int
    count: int
    values: NDArray[Any]
    starts: NDArray[np.int64] | None
    bad: NDArray[np.intp]


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

    `.npy`, `.npz` and `.parquet` are read and written. With `skip_bad`, rows with NaN or infinity are NaN in the output
    and listed in `target`.bad.csv; otherwise the first one is an InvalidInput, and what came before it is kept for a
    second run. `restart` drops an interrupted run instead of going on with it.
    """
    source, target = Path(source), Path(target)
    if target.exists() and not overwrite:
        raise InvalidInput(f"{target} exists; choose another name, or give --overwrite")
    if restart:
        discard(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(target.name + ".input")
    try:
        rows = open_source(source, scratch, predictor.config.context_length, predictor.config.dim)
        identity = _identity(predictor, source)
        output = Output(target, len(rows), predictor.config.dim, CHUNK, identity)
        resumed = sum(min(CHUNK, len(rows) - number * CHUNK) for number in output.done)
        try:
            _run(predictor, rows, output, skip_bad, _bar(len(rows), resumed, progress))
        except BaseException:
            output.close()
            raise
        output.finish(rows.rows())
    finally:
        scratch.unlink(missing_ok=True)
    return BulkResult(len(rows), resumed, len(output.bad))


def _run(predictor: Predictor, source: Source, output: Output, skip_bad: bool, bar: Any) -> None:
    with ThreadPoolExecutor(1) as writer, bar:
        behind: deque[Future[None]] = deque()
        for chunk in _read_ahead(source, output):
            if len(chunk.bad) and not skip_bad:
                reason = _reason(chunk, source, int(chunk.bad[0]))
                raise InvalidInput(f"{source.name}: {reason}; give --skip-bad to set such rows aside and go on")
            predictions = predict_chunk(predictor, chunk)
            reasons = {chunk.first + int(i): _reason(chunk, source, int(i)) for i in chunk.bad}
            behind.append(writer.submit(output.write, chunk.number, predictions, reasons))
            if len(behind) > _AHEAD:
                behind.popleft().result()
            bar.update(chunk.count)
        for written in behind:
            written.result()


def _read_ahead(source: Source, output: Output) -> Iterator[Chunk]:
    with ThreadPoolExecutor(1) as reader:
        ahead: deque[Future[Chunk]] = deque()
        for number, start, stop in output.chunks():
            ahead.append(reader.submit(read_chunk, source, number, start, stop))
            if len(ahead) > _AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def read_chunk(source: Source, number: int, start: int, stop: int) -> Chunk:
    """Read what rows start to stop need, and find those that hold a NaN or an infinity."""
    values, starts = source.read(start, stop)
    bad = bad_rows(values)
    if starts is not None and len(bad):  # a bad vector spoils every window that it is in
        spoiled = np.zeros(len(values) + 1, np.int64)
        spoiled[bad + 1] = 1
        before = np.cumsum(spoiled)
        bad = np.flatnonzero(before[starts + source.context_length] > before[starts])
    return Chunk(number, start, stop - start, values, starts, bad)


def predict_chunk(predictor: Predictor, chunk: Chunk) -> NDArray[np.float32]:
    """Return the chunk's predictions `[b, D]`, NaN for its bad rows."""
    good = np.setdiff1d(np.arange(chunk.count), chunk.bad)
    if chunk.starts is None:
        if len(good) == chunk.count:
            return predictor.predict(chunk.values)
        contexts = chunk.values[good]
    else:
        if len(good) == chunk.count == len(chunk.values) - predictor.config.context_length + 1:
            return predictor.predict_sequence(chunk.values)
        contexts = chunk.values[chunk.starts[good][:, None] + np.arange(predictor.config.context_length)]
    predictions = np.full((chunk.count, predictor.config.dim), np.nan, np.float32)
    predictions[good] = predictor.predict(contexts)
    return predictions


def _reason(chunk: Chunk, source: Source, row: int) -> str:
    if chunk.starts is None:
        values, first = chunk.values[row : row + 1], chunk.first + row
    else:
        start = int(chunk.starts[row])
        values = chunk.values[start : start + source.context_length]
        first = int(source.rows()[chunk.first + row]) - source.context_length + 1
    with np.errstate(over="ignore"):
        return describe_bad_row(values, values.astype(np.float32), first)


def _identity(predictor: Predictor, source: Path) -> dict[str, Any]:
    stat = source.stat()
    compiled = predictor.artifact.manifest.compiled
    hashes = {c.file.path: c.file.sha256 for c in compiled}
    return {
        "input": [str(source.absolute()), stat.st_size, stat.st_mtime_ns],
        "weights": predictor.artifact.manifest.weights.sha256,
        "model": [[str(route), hashes.get(route.file)] for route in predictor.explain().routes],
        "sequence": [c.file.sha256 for c in compiled if c.form == "sequence"],
    }


def _bar(total: int, done: int, wanted: bool) -> Any:
    from tqdm import tqdm

    # None lets tqdm decide: a bar on a terminal, silence in a log file
    return tqdm(total=total, initial=done, unit=" predictions", unit_scale=True, disable=None if wanted else True)
