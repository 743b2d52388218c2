"""Predictions for many large files, in parts that are independent of each other: any number of machines make them.

A part is a range of rows of one file. A worker reads those rows and the T − 1 before them, and writes one Parquet file
under a temporary name, which then takes its place in one step. So a part is there whole or not at all, and a part that
is made twice is the same. Its metadata say what it was made of, and a later run keeps it if that is the same.

T context length, D vector.
"""

from __future__ import annotations

import csv
import json
import os
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from lvm_runtime.bulk.destination import keep_out
from lvm_runtime.bulk.output import PredictionTable
from lvm_runtime.bulk.predict import BLOCK, predict_part
from lvm_runtime.bulk.source import Source
from lvm_runtime.corpus.corpus import open_corpus
from lvm_runtime.corpus.formats import count_rows, files_with_ids, ids_beside
from lvm_runtime.corpus.parquet import import_pyarrow
from lvm_runtime.errors import InvalidInput, LvmError, counted
from lvm_runtime.predictor import Predictor
from lvm_runtime.system import atomic

ROWS = 65_536
"""Rows of a part: 100 MB of vectors of 384 float32."""
MANIFEST = "manifest.json"
BAD = "bad.csv"
SUFFIXES = (".npy", ".parquet")
_NOTE = "lvm_runtime"
_PART_NAME = re.compile(r".+-[0-9a-f]{8}-\d{12,}-\d{12,}\.parquet", re.DOTALL)
_BAD_COLUMNS = ("source", "row", "reason")


@dataclass(frozen=True, slots=True)
class Part:
    """Rows `first` to `last` of a file of `rows` rows.

    `state` is the size and the time (ns) of the file, and of the ids beside it if there are any.
    """

    source: str
    rows: int
    first: int
    last: int
    state: str

    @property
    def name(self) -> str:
        """The name of its file."""
        digest = sha256(self.source.encode()).hexdigest()[:8]  # files of one name lie in several folders
        return f"{Path(self.source).stem}-{digest}-{self.first:012d}-{self.last:012d}.parquet"


@dataclass(frozen=True, slots=True)
class PartResult:
    """A part that is there: how many predictions it holds, which rows are NaN and why, and whether it was there before.

    A row of a prediction is that of its window's last vector.
    """

    part: Part
    predictions: int
    bad: dict[str, str]
    resumed: bool = False


def sources_of(source: Path) -> list[Path]:
    """Return the files that `source` names: itself, or what lies in the folder, in order."""
    if not source.is_dir():
        return [source]
    beside = {ids_beside(path) for path in source.glob("*.npy")}
    if found := sorted(path for path in source.iterdir() if path.suffix in SUFFIXES and path not in beside):
        return found
    raise InvalidInput(f"{source}: holds no file of {' or '.join(SUFFIXES)}")


def plan(sources: Sequence[Path], rows: int = ROWS) -> list[Part]:
    """Return the parts of all files, of `rows` rows each."""
    parts = []
    for path in sources:
        state, total = _state(path), count_rows(path)
        for first in range(0, total, rows):
            last = min(first + rows, total)
            parts.append(Part(str(path.absolute()), total, first, last, state))
    return parts


def prepare(
    folder: Path, parts: Sequence[Part], artifact: Path, *, overwrite: bool = False, restart: bool = False
) -> None:
    """Make the folder for the parts. InvalidInput if it holds others, or a finished run, unless `overwrite`.

    `restart` drops what an unfinished run left. Neither removes what no run wrote. Nor may the folder hold an input,
    nor lie in the `artifact` that predicts them, whose manifest would be replaced.
    """
    keep_out(folder, artifact)
    _keep_off_inputs(folder, parts)
    wanted = {part.name for part in parts}
    with atomic.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        found = {path.name for path in folder.iterdir() if path.suffix == ".parquet" or path.name in (MANIFEST, BAD)}
        if overwrite or (restart and MANIFEST not in found):
            if foreign := sorted(name for name in found if not _is_written_here(folder / name)):
                raise InvalidInput(f"{folder} holds {foreign[0]}, which no run wrote; choose another folder")
            for name in found:
                (folder / name).unlink()
        elif others := sorted(found - wanted):
            raise InvalidInput(f"{folder} holds {others[0]} of another run; choose another folder, or give --overwrite")


def _keep_off_inputs(folder: Path, parts: Iterable[Part]) -> None:
    """Raise InvalidInput if an input lies in `folder`: what is written there would be taken for one, and replaced."""
    place = os.path.realpath(folder)
    for source in dict.fromkeys(part.source for part in parts):
        if place in (os.path.realpath(os.path.dirname(source)), os.path.dirname(os.path.realpath(source))):
            raise InvalidInput(f"{folder}: the input {source} lies there; choose another folder for the output")


def _is_written_here(path: Path) -> bool:
    """Say whether a file of the folder for parts is one that a run writes."""
    if path.suffix == ".parquet":
        return _PART_NAME.fullmatch(path.name) is not None
    expected = ",".join(_BAD_COLUMNS) if path.name == BAD else '{\n "predictions":'
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(len(expected)) == expected
    except OSError:
        return False


def write_part(predictor: Predictor, part: Part, folder: Path, *, skip_bad: bool) -> PartResult:
    """Predict a part and write its file, unless it is there. InvalidInput for the first bad row without `skip_bad`."""
    path, identity = folder / part.name, _identity(predictor, part)
    found = _read_note(path)
    if found is not None and found["identity"] == identity and (skip_bad or not found["bad"]):
        return PartResult(part, found["predictions"], found["bad"], resumed=True)
    source = _open(predictor, part)
    rows, bad = source.rows(0, len(source)), dict[str, str]()
    temporary = folder / f".{path.stem}.{uuid.uuid4().hex}.tmp"
    with atomic.writing(path):
        try:
            with PredictionTable(temporary, predictor.config.dim) as table:
                for start in range(0, len(source), BLOCK):
                    stop = min(start + BLOCK, len(source))
                    predictions, reasons = predict_part(predictor, source, start, stop, skip_bad)
                    bad |= {str(rows[number]): reason for number, reason in reasons.items()}
                    table.add(rows[start:stop], predictions)
                note = {"identity": identity, "predictions": len(source), "bad": bad}
                table.note(_NOTE, json.dumps(note))
            _require_unchanged(part)
            atomic.move(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return PartResult(part, len(source), bad)


def finish(folder: Path, parts: Sequence[Part], results: Iterable[PartResult]) -> dict[str, Any]:
    """Check that every row of every file is in exactly one part that is there, and write the manifest and `bad.csv`.

    Raises LvmError for a row that is missing or there twice.
    """
    by_name = {result.part.name: result for result in results}
    _require_every_row(parts)
    if missing := sorted({part.name for part in parts} - set(by_name)):
        lost = counted(len(missing), "part is", "parts are")
        raise LvmError(f"{folder}: {lost} missing, the first is {missing[0]}; run it again")
    listed = []
    for part in parts:
        found, result = _read_note(folder / part.name), by_name[part.name]
        if found is None or found["predictions"] != result.predictions:
            raise LvmError(f"{folder / part.name}: is not the part that was written; run it again")
        listed.append({"file": part.name} | asdict(part) | {"predictions": result.predictions, "bad": len(result.bad)})
    bad = [(part.source, row, why) for part in parts for row, why in by_name[part.name].bad.items()]
    manifest = {"predictions": sum(entry["predictions"] for entry in listed), "bad": len(bad), "parts": listed}
    for left in folder.glob(".*.tmp"):  # of workers that were killed
        left.unlink(missing_ok=True)
    with atomic.writing(folder):
        if bad:
            with (folder / BAD).open("w", newline="") as file:
                csv.writer(file).writerows([_BAD_COLUMNS, *bad])
    atomic.write_bytes(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
    return manifest


def _open(predictor: Predictor, part: Part) -> Source:
    """Open the rows of a part and the T − 1 before them: their windows are those that end in the part."""
    length, dim = predictor.config.context_length, predictor.config.dim
    _require_unchanged(part)
    first = max(0, part.first - (length - 1))
    corpus = open_corpus(Path(part.source), context_length=length, dim=dim, rows=range(first, part.last))
    if corpus.values.ndim == 3:  # contexts do not overlap
        corpus = replace(corpus, values=corpus.values[part.first - first :], groups=None, targets=None)
        first = part.first
    return Source(corpus, length, first)


def _identity(predictor: Predictor, part: Part) -> dict[str, Any]:
    running, manifest = predictor.explain().running, predictor.artifact.manifest
    return asdict(part) | {
        "weights": manifest.model,
        "form": f"{running.backend} {running.precision} {running.file}",
        "files": [c.file.sha256 for c in manifest.compiled if c.file.path == running.file or c.form == "sequence"],
    }


def _state(source: Path) -> str:
    """Return size and time (ns) of each input, which the copies of a file on several machines have in common."""
    found = [path.stat() for path in files_with_ids(source) if path.exists()]
    return ", ".join(f"{status.st_size} bytes of {status.st_mtime_ns}" for status in found)


def _require_unchanged(part: Part) -> None:
    if _state(Path(part.source)) != part.state:
        raise LvmError(f"{part.source}: another program changed it during the run; run it again")


def _read_note(path: Path) -> dict[str, Any] | None:
    """Return what a part says of itself; None if it is not there, or is no part."""
    pyarrow, parquet = import_pyarrow()
    try:
        metadata = parquet.read_metadata(path).metadata or {}
        found = json.loads(metadata[_NOTE.encode()])
        return found if {"identity", "predictions", "bad"} <= set(found) else None
    except (OSError, KeyError, ValueError, pyarrow.ArrowException):
        return None


def _require_every_row(parts: Sequence[Part]) -> None:
    at: dict[str, int] = {}
    for part in parts:
        if part.first != at.get(part.source, 0):
            raise LvmError(
                f"{part.source}: row {at.get(part.source, 0)} is in no part or in two, expected one; run it again"
            )
        at[part.source] = part.last
    if short := [part for part in parts if at[part.source] != part.rows]:
        raise LvmError(
            f"{short[0].source}: the parts end at row {at[short[0].source]} of {short[0].rows}; run it again"
        )
