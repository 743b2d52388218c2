"""Predict for files of any size on a Ray cluster, with Ray Data.

The rows are cut into parts. A worker on each CPU holds one Predictor, and makes part after part, each a file of its
own. Nothing is shuffled and no vector goes through Ray, so that memory is bounded by a part. Files and artifact have to
be at the same paths on every node.
"""

from __future__ import annotations

import re
import socket
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lvm_runtime import errors
from lvm_runtime.arguments import file_name, finite_number, whole_number
from lvm_runtime.artifact.folder import Artifact, resolve
from lvm_runtime.bulk.parts import ROWS, Part, PartResult, finish, plan, prepare, sources_of, write_part
from lvm_runtime.bulk.predict import BulkResult, open_with_threads
from lvm_runtime.corpus.corpus import require_corpus
from lvm_runtime.errors import InvalidInput, LvmError, one_line
from lvm_runtime.predictor import Predictor
from lvm_runtime.request import Request
from lvm_runtime.system.extras import require

_ADDRESS = re.compile(r"(?:ray://)?\[?(?P<host>[^/\[\]]+)\]?:(?P<port>[0-9]{1,5})")
_CONNECT = 10.0  # seconds in which a cluster's head takes a connection
_TRIES = 5
"""Workers that may end at one part: also a node that dies ends one, and Ray itself tries for ever."""
_TRIED = ".tried.tmp"  # the end of the name of the file that counts them; `finish` removes it, too


def predict(
    source: str | Path,
    artifact: str | Path,
    out: str | Path,
    *,
    request: Request | None = None,
    address: str | None = None,
    cpus: int = 1,
    gpus: float = 0,
    rows: int = ROWS,
    skip_bad: bool = False,
    overwrite: bool = False,
    restart: bool = False,
) -> BulkResult:
    """Predict for `source`, a `.npy` or Parquet file or a folder of them, into Parquet files in the folder `out`.

    `address` is that of a running cluster, "auto" the one that this machine belongs to, None a cluster of this machine
    alone. Each worker has `cpus` and `gpus`; each part has `rows` rows. An interrupted run goes on where it was, with
    `restart` from the beginning; `overwrite` replaces a finished one too. At the end `out/manifest.json` lists the
    parts, after a check that every row is in exactly one. Rows that cannot be predicted are an InvalidInput, or with
    `skip_bad` NaN and listed in `out/bad.csv`.

    Raises BackendUnavailable without Ray, LvmError where no cluster is found or a worker fails.
    """
    whole_number(cpus, "cpus")
    finite_number(gpus, "gpus", example="1")
    ray = require("ray", "predicting on a cluster", "ray", "ray.data")
    started = not ray.is_initialized()
    if started and address not in (None, "auto", "local"):
        _require_listener(address)
    path, folder = resolve(artifact).absolute(), file_name(out, "out").absolute()
    config = Artifact.load(path).config  # says what is wrong with it here, before a cluster is asked
    sources = sources_of(file_name(source, "source"))
    require_corpus(sources[0], context_length=config.context_length, dim=config.dim)
    parts = plan(sources, whole_number(rows, "rows"))
    prepare(folder, parts, path, overwrite=overwrite, restart=restart)
    for left in folder.glob(f".*{_TRIED}"):  # of a run before
        left.unlink(missing_ok=True)
    if started:
        try:
            ray.init(address=address or "local", include_dashboard=False, log_to_driver=False)
        except ConnectionError as error:
            raise _unreachable(address or "local", error) from error
    try:
        if started and not address:  # other clusters may grow
            _require_room(ray.cluster_resources(), cpus, gpus)
        arguments = (path, request or Request(), cpus, folder, skip_bad)
        results = _run(ray, parts, arguments, cpus, gpus)
    finally:
        if started:
            ray.shutdown()
    manifest = finish(folder, parts, results)
    resumed = sum(result.predictions for result in results if result.resumed)
    return BulkResult(manifest["predictions"], resumed, manifest["bad"])


def _require_listener(address: str) -> None:
    """Raise InvalidInput for what is no address, LvmError where nobody listens: Ray itself tries for ever."""
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise InvalidInput(f"the address is {address!r:.99}, expected HOST:PORT, such as 10.0.0.1:6379, or auto")
    try:
        socket.create_connection((found["host"], int(found["port"])), _CONNECT).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> LvmError:
    return LvmError(
        f"no Ray cluster is found at {address} ({one_line(error)}); start one with `ray start --head` and give the "
        "address that it prints"
    )


def _require_room(there: dict[str, float], cpus: int, gpus: float) -> None:
    """Raise InvalidInput for a worker that this machine has no room for: Ray waits for ever for another one."""
    for name, wanted, found in (("cpus", cpus, there.get("CPU", 0)), ("gpus", gpus, there.get("GPU", 0))):
        if wanted > found:
            raise InvalidInput(f"{name} is {wanted:g} for each worker, and this machine has {found:g}")


def _run(ray: Any, parts: list[Part], arguments: tuple[Any, ...], cpus: int, gpus: float) -> list[PartResult]:
    """Return the result of every part; each is a block of its own, so that any worker takes any."""
    if not parts:
        return []
    items = [asdict(part) for part in parts]
    free = ray.available_resources()
    room = [free.get("CPU", 0) // cpus, *([free.get("GPU", 0) // gpus] if gpus else [])]
    at_once = max(1, min(len(parts), *map(int, room)))  # left to itself, Ray starts them one after another
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=len(parts), initial_size=at_once)
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _Worker,
        batch_size=1,
        batch_format="numpy",
        compute=pool,
        num_cpus=cpus,
        num_gpus=gpus or None,
        fn_constructor_args=arguments,
    )
    try:
        with closing(iter(dataset.iter_rows())) as rows:  # also where a part failed, before Ray is told to end
            return [_result(row) for row in rows]
    except ray.exceptions.RayError as error:
        raise _cause(error) from error


class _Worker:
    """An actor: one Predictor, and the parts that Ray hands to it.

    What goes wrong with a part is an answer, too: of an error Ray keeps the text only, and prints a page about it.
    """

    def __init__(self, artifact: Path, request: Request, cpus: int, folder: Path, skip_bad: bool) -> None:
        self._opening = artifact, request, cpus
        self._predictor: Predictor | None = None
        self._folder, self._skip_bad = folder, skip_bad

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make a part and return its numbers."""
        part = Part(
            **{name: values[0].item() if hasattr(values[0], "item") else values[0] for name, values in batch.items()}
        )
        result, failure = PartResult(part, 0, {}), ["", ""]
        tried = self._folder / f".{part.name}{_TRIED}"
        try:
            _count_try(tried, part)
            self._predictor = self._predictor or open_with_threads(*self._opening)
            result = write_part(self._predictor, part, self._folder, skip_bad=self._skip_bad)
        except LvmError as error:
            failure = [type(error).__name__, str(error)]
        except (OSError, MemoryError) as error:
            failure = [LvmError.__name__, f"a worker failed at {part.name}: {one_line(error)}"]
        tried.unlink(missing_ok=True)
        return {
            **batch,
            "predictions": np.array([result.predictions]),
            "resumed": np.array([result.resumed]),
            "bad_rows": [list(result.bad)],
            "reasons": [list(result.bad.values())],
            "failure": [failure],
        }


def _count_try(tried: Path, part: Part) -> None:
    """Add one to the length of the file `tried`, which a worker that ends leaves behind; LvmError after _TRIES."""
    with tried.open("ab") as file:
        if file.tell() >= _TRIES:
            raise LvmError(
                f"{part.source}: {_TRIES} workers ended at the rows {part.first} to {part.last - 1}, killed or out of "
                "memory; Ray's logs say why. Mend or leave out the file, or give each worker more with --cpus"
            )
        file.write(b".")


def _result(row: dict[str, Any]) -> PartResult:
    kind, message = row["failure"]
    if kind:
        raise getattr(errors, kind)(message)
    part = Part(**{name: row[name] for name in Part.__dataclass_fields__})
    bad = dict(zip(row["bad_rows"], row["reasons"], strict=True))
    return PartResult(part, int(row["predictions"]), bad, bool(row["resumed"]))


def _cause(error: Exception) -> LvmError:
    """Return an error with the last line of what Ray says of the first error, or its type if it says nothing."""
    first = str(error).partition("\n\nThe above exception")[0].strip()
    return LvmError(f"the cluster failed: {first.splitlines()[-1] if first else type(error).__name__}")
