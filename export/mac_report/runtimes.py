"""What runs the models on this machine: each backend, device and precision beside each other. Runs anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from lvm_runtime.artifact.drift import max_drift
from lvm_runtime.artifact.fingerprint import random_contexts
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends import backend_class
from lvm_runtime.backends.base import Backend
from lvm_runtime.backends.batch_sizes import any_batch
from lvm_runtime.commands.tables import markdown
from lvm_runtime.errors import one_line
from lvm_runtime.selection.timing import interleave

from ..formats import exports, makeable
from ..source import open_source
from ..verify import SAMPLE_SEED, Sample
from .energy import Power, find_power
from .record import entry

BACKENDS = ("coreml", "coreai", "onnx", "native", "mlx", "eager")
BATCHES = (1, 32, 128)
ROUNDS = 7
SECONDS = 0.05
_HEADER = ("backend", "device", "precision", "drift", *(f"predictions/s at {n}" for n in BATCHES), "ms at 1")


def runtimes(folder: Path, name: str, dim: int, entries: list[dict[str, Any]]) -> str:
    """Return a table of drift, speed and energy, and add each row to `entries`.

    The Core ML package has been made before. What cannot run has its reason in the place of its figures.
    """
    source = open_source(str(folder / name))
    sample = Sample.of("random", source.model, random_contexts(128, 5, dim, seed=SAMPLE_SEED))
    power, reason = find_power()
    failed = []
    for path, export in exports(source, [sample], [kind for kind in makeable() if kind in BACKENDS[1:]]):
        try:
            export()
        except Exception as error:  # a form that fails is a line of the report
            failed.append(entry(name, path, "", "", problem=_line(error)))
    found = [_measured(name, sample, power, *candidate) for candidate in _candidates(Artifact.load(folder / name))]
    found += failed
    entries += found
    table = markdown((*_HEADER, "mJ a prediction at 128"), [_row(each["notes"]) for each in found])
    return f"{table}\n\n{reason}" if reason else table


def _candidates(artifact: Artifact) -> Iterator[tuple[type[Backend], str, str, Path]]:
    for name in BACKENDS:
        cls = backend_class(name)
        if cls.missing():
            continue
        files = [(artifact.path, "fp32")]
        if cls.format is not None:
            files = [(artifact.file(found), found.precision) for found in artifact.find(cls.format)]
        for device in cls.devices():
            for path, made_in in files:
                for precision in cls.precisions or (made_in,):
                    yield cls, device, precision, path


def _measured(
    model: str,
    sample: Sample,
    power: Power | None,
    cls: type[Backend],
    device: str,
    precision: str,
    path: Path,
) -> dict[str, Any]:
    say = partial(entry, model, cls.name, device, precision)
    try:
        backend = cls(path, device=device, precision=precision)
        try:
            run = any_batch(backend).run
            drift = max_drift(run(sample.contexts), sample.predictions)
            runs = {str(n): partial(run, sample.contexts[:n]) for n in BATCHES}
            timings = interleave(runs, rounds=ROUNDS, seconds=SECONDS)
            energy = _energy(power, runs[str(BATCHES[-1])])
        finally:
            backend.close()
    except Exception as error:  # whatever fails on a device nobody has seen yet belongs into the report
        return say(problem=_line(error))
    rates = {str(n): n / timings[str(n)].median for n in BATCHES}
    medians = {str(n): timings[str(n)].median * 1e3 for n in BATCHES}
    return say(drift=drift, predictions_per_second=rates, median_ms=medians, **energy)


def _energy(power: Power | None, run: Callable[[], object]) -> dict[str, Any]:
    if power is None:
        return {}
    try:
        return {"millijoules": power.millijoules(run, BATCHES[-1])}
    except RuntimeError as error:
        return {"energy_problem": _line(error)}


def _row(notes: dict[str, Any]) -> tuple[str, ...]:
    head = notes["backend"], notes["device"], notes["precision"]
    if "problem" in notes:
        return (*head, notes["problem"], *("",) * (len(BATCHES) + 2))
    rates = (f"{rate:,.0f}" for rate in notes["predictions_per_second"].values())
    energy = f"{notes['millijoules']:.3g}" if "millijoules" in notes else notes.get("energy_problem", "–")
    return (*head, f"{notes['drift']:.1e}", *rates, f"{notes['median_ms']['1']:.3f}", energy)


def _line(error: Exception) -> str:
    return f"FAILED: {type(error).__name__}: {one_line(error)}".replace("|", "/")
