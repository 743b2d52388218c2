"""What else runs the models on this machine: each backend, device and precision beside each other. Runs anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from lvm_runtime.artifact.drift import max_drift
from lvm_runtime.artifact.fingerprint import random_contexts
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends import backend_class
from lvm_runtime.backends.base import Backend
from lvm_runtime.commands.tables import markdown
from lvm_runtime.selection.timing import interleave

from ..formats import exports, makeable
from ..source import open_source
from ..verify import SAMPLE_SEED, Sample

BACKENDS = ("onnx", "native", "mlx", "eager")
BATCHES = (1, 32, 128)
ROUNDS = 7
SECONDS = 0.05


def runtimes(folder: Path, name: str, dim: int) -> str:
    """Return a table of drift and speed; what cannot run has its reason in the place of its figures."""
    source = open_source(str(folder / name))
    sample = Sample.of("random", source.model, random_contexts(128, 5, dim, seed=SAMPLE_SEED))
    problems = {}
    for path, export in exports(source, [sample], [kind for kind in makeable() if kind in BACKENDS]):
        try:
            export()
        except Exception as error:  # a form that fails is a line of the report
            problems[path] = _line(error)
    rows = [_measured(sample, *candidate) for candidate in _candidates(Artifact.load(folder / name))]
    rows += [(path, "", "", problem, *("",) * len(BATCHES)) for path, problem in problems.items()]
    return markdown(("backend", "device", "precision", "drift", *(f"predictions/s at {n}" for n in BATCHES)), rows)


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


def _measured(sample: Sample, cls: type[Backend], device: str, precision: str, path: Path) -> tuple[Any, ...]:
    try:
        backend = cls(path, device=device, precision=precision)
        try:
            drift = max_drift(backend.run(sample.contexts), sample.predictions)
            runs = {str(n): partial(backend.run, sample.contexts[:n]) for n in BATCHES}
            timings = interleave(runs, rounds=ROUNDS, seconds=SECONDS)
        finally:
            backend.close()
    except Exception as error:  # whatever fails on a device nobody has seen yet belongs into the report
        return (cls.name, device, precision, _line(error), *("",) * len(BATCHES))
    return (cls.name, device, precision, f"{drift:.1e}", *(f"{n / timings[str(n)].median:,.0f}" for n in BATCHES))


def _line(error: Exception) -> str:
    return f"FAILED: {type(error).__name__}: {' '.join(str(error).split())}".replace("|", "/")
