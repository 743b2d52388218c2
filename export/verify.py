"""Load a compiled form again and compare it with the training form; what fails leaves no file behind.

The answers it must give are the training form's, computed in float64. They are asked for random and for real
contexts, at several batch sizes, alone and among rows a hundred times larger, because a form may be right on
average and still let a row's batch-mates change its answer.

n contexts, b batch, T context length, D vector.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lvm_runtime.artifact.drift import (
    ATTENTION_LIMITS,
    BATCH_INVARIANCE_LIMIT,
    DRIFT_LIMITS,
    FP32_ABSOLUTE_LIMIT,
    LENGTH_LIMIT,
    OVERLAP_LIMIT,
    drift,
    largest_difference,
    largest_length_difference,
    max_drift,
    require,
)
from lvm_runtime.artifact.fingerprint import random_contexts
from lvm_runtime.backends import backend_class
from lvm_runtime.backends.base import Array, Backend
from lvm_runtime.backends.batch_sizes import Runner, any_batch
from lvm_runtime.backends.devices import inference
from lvm_runtime.corpus.corpus import BUNDLED
from lvm_runtime.errors import InvalidInput, VerificationFailed
from lvm_runtime.models import known_answers
from lvm_runtime.selection.sequences import window

from .search_check import SearchCheck, SearchReport
from .source import Source
from .windows import read_windows

BATCH_SIZES = (1, 3, 32, 128)
REAL_WINDOWS = 256
MEDIAN_DRIFT_LIMITS = {"fp32": 1e-7, "fp16": 5e-5, "bf16": 2e-4, "int8": 2e-4}
ROUNDING = 5e-12
"""Median drift that rounding may cause in fp32, unless the training form in fp32 drifts by over a 16th of it.

Forms of 192 random models up to D = 1,024 and of trained ones drift by 1e-14 to 8e-13 at the median. An epsilon of 1e-6
in the place of 1e-5 makes 1e-11 to 2e-6 of it, where no component need be off by more than its limit.
"""
ROUNDINGS = 16
SAMPLE_SEED = 1
"""Not the seed of the probes, on which int8 is calibrated."""
ALONE = 8
"""Rows that are also run alone, first, last and among large ones."""
SHORT = 0.001
LENGTHENED = (0, SHORT, 30, 1000)
"""How many times as long random contexts are compared in fp32 too, in which a Predictor takes them up to a norm of 1e6.
An attention that is a little too sharp, a mask that is not low enough and what is cut off hide at norm 1. In int8 short
ones are compared: without biases the steps of a LayerNorm's mean are larger than what they make, and drifts reach 2."""
ROWS_LENGTHENED = 32
_REMEDY = (
    "nothing was kept: choose a higher --precision, or report it with the versions that `lvm-runtime doctor` prints"
)


class DocumentRunner:
    """Run a sequence form on contexts: join them to one document, and keep the predictions of whole contexts only."""

    def __init__(self, path: Path, context_length: int, *, format: str) -> None:
        self._backend = backend_class(format)(path, device="cpu")
        self._length = context_length

    def run(self, contexts: Array) -> Array:
        """Return predictions `[b, D]`."""
        return self.run_all(contexts)[:: self._length].copy()

    def run_with_attention(self, contexts: Array) -> tuple[Array, Array]:
        """Return predictions `[b, D]` and attention `[b, T]`."""
        predictions, attention = self._backend.run_with_attention(self._document(contexts))
        return predictions[:: self._length].copy(), attention[:: self._length].copy()

    def run_all(self, contexts: Array) -> Array:
        """Return the predictions `[b · T − T + 1, D]` of all windows, those that begin within a context too."""
        return self._backend.run(self._document(contexts))

    def close(self) -> None:
        """Release the backend."""
        self._backend.close()

    def _document(self, contexts: Array) -> Array:
        return np.ascontiguousarray(contexts).reshape(-1, contexts.shape[2])


@dataclass(frozen=True, slots=True)
class Sample:
    """Contexts `[n, T, D]` float32 with the training form's float64 `predictions` `[n, D]` and `attention` `[n, T]`.

    `rounding` is the median drift of the training form in fp32. `search` is there where a corpus was given to search
    in; `lengthened` are some of the contexts, in other lengths.
    """

    name: str
    contexts: Array
    predictions: NDArray[np.float64]
    attention: NDArray[np.float64] | None
    rounding: float = 0.0
    search: SearchCheck | None = None
    lengthened: tuple[Sample, ...] = ()

    @classmethod
    def of(cls, name: str, model: nn.Module, contexts: Array) -> Sample:
        """Compute the answers of `model` in float64, and in fp32 how far rounding alone takes them."""
        predictions, attention = known_answers(model, contexts)
        with inference("cpu", None):
            rounded = model(torch.from_numpy(contexts)).numpy()
        return cls(name, contexts, predictions, attention, float(np.median(drift(rounded, predictions))))

    @property
    def rounding_limit(self) -> float:
        """The median drift up to which a form in fp32 may only be rounded otherwise than the training form."""
        return min(max(ROUNDING, ROUNDINGS * self.rounding), MEDIAN_DRIFT_LIMITS["fp32"])

    def cycled(self, count: int) -> Sample:
        """Return the sample with `count` contexts, starting over where there are fewer."""
        rows = np.arange(count) % len(self.contexts)
        attention = None if self.attention is None else self.attention[rows]
        return replace(self, contexts=self.contexts[rows], predictions=self.predictions[rows], attention=attention)

    def first(self, count: int) -> Sample:
        """Return the sample with its first contexts, at most `count` of them."""
        return self.cycled(min(count, len(self.contexts)))


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured: drift per row, largest component difference, largest change by batch-mates, what it finds."""

    worst_drift: float
    median_drift: float
    largest_difference: float
    batch_change: float
    contexts: int
    search: SearchReport | None = None

    def __str__(self) -> str:
        return (
            f"drift {self.worst_drift:.1e} at worst, {self.median_drift:.1e} at the median "
            f"of {self.contexts} contexts; batch-mates change {self.batch_change:.0e}"
        )

    def details(self) -> dict[str, Any]:
        """Return the figures as JSON values for the manifest."""
        return {
            "median_drift": self.median_drift,
            "largest_difference": self.largest_difference,
            "batch_change": self.batch_change,
            "verified_on": self.contexts,
        } | search_details(self.search)


def search_details(report: SearchReport | None) -> dict[str, Any]:
    """Return what a search found as JSON values for the manifest, nothing where there was none."""
    return {} if report is None else {"search": report.details()}


def make_samples(source: Source, data: Path | None = None, *, min_overlap: float = OVERLAP_LIMIT) -> tuple[Sample, ...]:
    """Return random and real contexts with their known answers.

    Real ones are held-out windows of `data`, or of the bundled corpus if its vectors have this D and its documents are
    long enough, or the real probes of the artifact's fingerprint. In `data` the forms have to find what the training
    form does, as far as `min_overlap` asks. Vectors of `data` are divided by their lengths if those of training were.

    >>> from export.source import open_source
    >>> [sample.name for sample in make_samples(open_source("amn"))]
    ['random', 'real']
    """
    config = source.artifact.config
    length, dim = config.context_length, config.dim
    random = random_contexts(max(BATCH_SIZES), length, dim, seed=SAMPLE_SEED)
    lengthened = tuple(
        Sample.of(f"{scale} times as long", source.model, random[:ROWS_LENGTHENED] * np.float32(scale))
        for scale in LENGTHENED
    )
    samples = [replace(Sample.of("random", source.model, random), lengthened=lengthened)]
    normalize = source.artifact.manifest.takes_unit_vectors
    search = None if data is None else SearchCheck.of(source.model, data, min_overlap, normalize=normalize)
    real = _bundled(dim, length) if data is None else read_windows(data, dim, length, REAL_WINDOWS, normalize=normalize)
    if real is None:
        real = source.artifact.read_fingerprint().real
    if len(real):
        samples.append(replace(Sample.of("real", source.model, real), search=search))
    return tuple(samples)


def _bundled(dim: int, length: int) -> Array | None:
    """Return windows of the bundled corpus, whose vectors have length 1, or None if its sizes do not fit."""
    if dim != 384 or not BUNDLED.is_file():
        return None
    try:
        return read_windows(BUNDLED, dim, length, REAL_WINDOWS)
    except InvalidInput:  # its documents hold fewer vectors
        return None


def verify(
    runner: Runner,
    samples: Sequence[Sample],
    *,
    name: str,
    precision: str,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    largest_norm: float = Backend.largest_norm,
) -> Report:
    """Compare `runner` with the known answers of `samples` at each batch size.

    In fp32 `lengthened` contexts up to `largest_norm` are compared as well, in int8 short ones; in other precisions
    than fp32 zeros have to give finite numbers. Raises VerificationFailed, with `name` and the numbers, for too much
    drift at worst or at the median, in fp32 for a component off by more than 2e-5 and for more than rounding makes at
    the median, for a prediction of another length, for attention weights that are off, for a row that its batch-mates
    change by more than 1e-6, and for finding too little of what the training form finds.
    """
    drifts, medians, difference, longer, change = [], [], 0.0, 0.0, 0.0
    for sample in samples:
        alone: dict[int, Array] = {}
        for size in sorted(batch_sizes):
            rows = len(sample.contexts) if size == max(batch_sizes) else min(max(size, ALONE), len(sample.contexts))
            answers = _run(runner, sample, size, rows, name, precision)
            drifts.append(drift(answers, sample.predictions[:rows]))
            difference = max(difference, largest_difference(answers, sample.predictions[:rows]))
            longer = max(longer, largest_length_difference(answers, sample.predictions[:rows]))
            for row in range(min(rows, ALONE)):
                change = max(change, largest_difference(answers[row], alone.setdefault(row, answers[row])))
        medians.append(float(np.median(drifts[-1])))  # at the largest size, of all contexts
        change = max(change, _change_by_mates(runner, sample.contexts, batch_sizes))
    report = Report(
        worst_drift=float(max(d.max() for d in drifts)),
        median_drift=float(np.median(np.concatenate(drifts))),
        largest_difference=difference,
        batch_change=change,
        contexts=sum(len(s.contexts) for s in samples),
    )
    require(report.worst_drift, DRIFT_LIMITS[precision], f"{name}: largest drift (1 - cosine)", _REMEDY)
    require(report.median_drift, MEDIAN_DRIFT_LIMITS[precision], f"{name}: median drift (1 - cosine)", _REMEDY)
    if precision == "fp32":
        require(report.largest_difference, FP32_ABSOLUTE_LIMIT, f"{name}: largest difference in a component", _REMEDY)
    require(longer, LENGTH_LIMIT, f"{name}: largest difference in the length of a prediction", _REMEDY)
    require(report.batch_change, BATCH_INVARIANCE_LIMIT, f"{name}: change of a row by its batch-mates", _REMEDY)
    for sample, median in zip(samples, medians, strict=True) if precision == "fp32" else ():
        require(median, sample.rounding_limit, f"{name}: median drift (1 - cosine) of {sample.name} contexts", _REMEDY)
    for other in [other for sample in samples for other in sample.lengthened]:
        if np.linalg.norm(other.contexts, axis=2).max() <= largest_norm:
            _compare_lengthened(runner, other, name, precision)
    return replace(report, search=search(runner.run, samples, name))


def search(run: Callable[[Array], Array], samples: Sequence[Sample], name: str) -> SearchReport | None:
    """Search with what `run` predicts, if a sample has a corpus to search in; raises VerificationFailed."""
    checks = [sample.search for sample in samples if sample.search is not None]
    return checks[0].measure(run, name) if checks else None


def _run(runner: Runner, sample: Sample, size: int, rows: int, name: str, precision: str) -> Array:
    """Run the first `rows` contexts in batches of `size`, with the attention compared on the way."""
    parts = []
    for start in range(0, rows, size):
        contexts = sample.contexts[start : min(start + size, rows)]
        parts.append(runner.run(contexts))
        if sample.attention is not None:
            predictions, attention = runner.run_with_attention(contexts)
            off = largest_difference(attention, sample.attention[start : start + len(contexts)])
            require(off, ATTENTION_LIMITS[precision], f"{name}: largest difference in an attention weight", _REMEDY)
            if not np.array_equal(predictions, parts[-1], equal_nan=True):
                require(
                    largest_difference(predictions, parts[-1]),
                    BATCH_INVARIANCE_LIMIT,
                    f"{name}: change by asking attention",
                    _REMEDY,
                )
    return np.concatenate(parts)


def _compare_lengthened(runner: Runner, other: Sample, name: str, precision: str) -> None:
    """Compare the median row: where two scores of attention are nearly equal, rounding alone decides between them."""
    answers = runner.run(other.contexts)
    if precision != "fp32":
        if not other.contexts.any() and not np.isfinite(answers).all():
            raise VerificationFailed(f"{name}: contexts of zeros give NaN or infinity; {_REMEDY}")
        if precision == "int8" and other.name.startswith(f"{SHORT} "):
            off = max_drift(answers, other.predictions)
            require(off, DRIFT_LIMITS[precision], f"{name}: drift (1 - cosine) with contexts {other.name}", _REMEDY)
        return
    what = f"{name}: with contexts {other.name}, the median row's largest difference in"
    require(_median_difference(answers, other.predictions), FP32_ABSOLUTE_LIMIT, f"{what} a component", _REMEDY)
    if other.attention is not None:
        off = _median_difference(runner.run_with_attention(other.contexts)[1], other.attention)
        require(off, ATTENTION_LIMITS[precision], f"{what} an attention weight", _REMEDY)


def _median_difference(found: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.median([largest_difference(*rows) for rows in zip(found, expected, strict=True)]))


def _change_by_mates(runner: Runner, contexts: Array, batch_sizes: Sequence[int]) -> float:
    """Return the largest change of a row that runs alone, first, last, and among rows 100 times larger in norm."""
    size = max(s for s in batch_sizes if s <= max(32, min(batch_sizes)))
    worst = 0.0
    for row in contexts[:ALONE]:
        batch = np.repeat(contexts[-1:], size, axis=0) * np.float32(100)
        batch[0] = batch[-1] = row
        alone = runner.run(row[None] if 1 in batch_sizes else np.repeat(row[None], size, axis=0))[0]
        crowd = runner.run(batch)
        worst = max(worst, largest_difference(crowd[0], alone), largest_difference(crowd[-1], alone))
    return worst


def verify_file(
    path: Path,
    samples: Sequence[Sample],
    *,
    format: str,
    precision: str,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> Report:
    """Load the compiled form at `path` through its backend on the CPU, as it will be served, and verify it."""
    with closing(backend_class(format)(path, device="cpu", precision=precision)) as backend:
        name = f"{format} {backend.precision}"
        return verify(
            any_batch(backend),
            samples,
            name=name,
            precision=backend.precision,
            batch_sizes=batch_sizes,
            largest_norm=backend.largest_norm,
        )


def verify_program(write: Callable[[Path], object], samples: Sequence[Sample], check: Callable[..., Report]) -> None:
    """Prove what a form in another precision computes: written in fp32 by `write`, it has to pass `check` as such.

    Rounding to int8 moves a prediction by more than many mistakes do. An epsilon, a GELU by tanh, swapped halves of a
    weight and an attention that is 16 times too sharp all passed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fp32"
        write(path)
        check(path, samples=[sample.first(ROWS_LENGTHENED) for sample in samples], precision="fp32")


def verify_sequence(path: Path, source: Source, samples: Sequence[Sample], *, format: str, precision: str) -> Report:
    """Load the sequence form at `path` and verify the contexts of `samples`, joined to documents.

    Windows that begin within a context are compared in a document of a few contexts, as the training form has to answer
    T times as many there.
    """
    length, name = source.artifact.config.context_length, f"{format} sequence {precision}"
    with closing(DocumentRunner(path, length, format=format)) as runner:
        report = verify(runner, samples, name=name, precision=precision)
        contexts = samples[-1].contexts[:ALONE]
        known, _ = known_answers(source.model, window(np.concatenate(contexts), length))
        off = max_drift(runner.run_all(contexts), known)
    require(off, DRIFT_LIMITS[precision], f"{name}: largest drift (1 - cosine) of a window of a document", _REMEDY)
    return report
