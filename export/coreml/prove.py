"""Prove a package before it ever reaches a Mac: by the reference evaluator, and on macOS by Core ML as well.

Two things are shown. That the *form* is the right function: an fp32 package of it, computed in float64, equals the
training form to a few units of fp32, at inputs 1 and 30 times as large as usual, because some mistakes (an attention
that is a little too sharp) hide at the usual size. And that the *shipped* package keeps its numbers: in float64, which
shows what its rounded weights cost, and with every result rounded to fp16.

b batch, T context length, D vector.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from lvm_runtime.artifact.drift import (
    ATTENTION_LIMITS,
    DRIFT_LIMITS,
    FP32_ABSOLUTE_LIMIT,
    LENGTH_LIMIT,
    drift,
    largest_difference,
    largest_length_difference,
    max_drift,
    require,
)
from lvm_runtime.backends.base import Array
from lvm_runtime.backends.batch_sizes import AnyBatch
from lvm_runtime.errors import VerificationFailed
from lvm_runtime.models import known_answers

from ..mil_reference import Evaluator, load_program
from ..search_check import SearchReport
from ..verify import Sample, search, search_details
from .options import CoreMLOptions

FORM_LIMIT = 2e-6
"""Largest difference of a component between an fp32 package, computed in float64, and the training form."""
FORM_DRIFT = 1e-14
"""Median drift of such a package at the usual inputs. Rounding the weights to fp32 makes up to 2e-16."""
FORM_SCALES = (1, 30)
WEIGHTS_LIMIT = 2e-4
"""The same for a shipped fp16 package: what rounding its weights may cost."""
ROUNDED_LIMIT = 5e-4
"""The same with every result rounded to fp16."""
COSINE_LIMIT = 0.9999
_REMEDY = "nothing was kept: report it with what `lvm-runtime doctor` prints"
LIMITS_AT = 768
"""The D for which the two fp16 limits hold; components of a unit vector shrink as 1/√D, and errors with them."""


@dataclass(frozen=True, slots=True)
class Proof:
    """Largest component differences by mode, and the drift (1 − cosine) with results rounded as declared."""

    form_difference: float
    exact_difference: float
    largest_difference: float
    narrow_difference: float
    worst_drift: float
    median_drift: float
    verified_on: int
    core_ml_drift: float | None = None
    search: SearchReport | None = None

    def details(self) -> dict[str, Any]:
        """Return the figures as JSON values for the manifest."""
        kept = {k: v for k, v in asdict(self).items() if k not in ("worst_drift", "search") and v is not None}
        return kept | search_details(self.search)


class PackageRunner:
    """A package in the reference evaluator: it takes exactly the batch sizes that `functions` lists."""

    def __init__(self, package: Path, functions: Mapping[int, str], *, mode: str) -> None:
        program = load_program(package)
        shared = {name: Evaluator(program, mode=mode, function=name) for name in set(functions.values())}
        self._evaluators = {size: shared[name] for size, name in functions.items()}

    def outputs(self, contexts: Array) -> dict[str, NDArray[Any]]:
        """Return every output by name for contexts `[b, T, D]`."""
        return self._evaluators[len(contexts)]({"context": contexts})

    def run(self, contexts: Array) -> Array:
        """Return predictions `[b, D]`."""
        return self.outputs(contexts)["prediction"]

    def run_with_attention(self, contexts: Array) -> tuple[Array, Array]:
        """Return predictions `[b, D]` and attention `[b, T]`."""
        outputs = self.outputs(contexts)
        return outputs["prediction"], outputs["attention"]


def prove_form(package: Path, functions: Mapping[int, str], model: nn.Module, contexts: Array) -> float:
    """Compare an fp32 package with the training form in float64, at every batch size and scale.

    `contexts` `[n, T, D]` are the usual ones. Returns the largest difference; raises VerificationFailed over 2e-6, and
    where the usual ones drift by more than 1e-14 at the median.
    """
    runner = PackageRunner(package, functions, mode="exact")
    worst = median = 0.0
    for scale in FORM_SCALES:
        for size in functions:
            batch = _cycled(contexts, size) * np.float32(scale)
            outputs, (answers, attention) = runner.outputs(batch), known_answers(model, batch)
            worst = max(worst, largest_difference(outputs["prediction"], answers))
            if attention is not None:
                worst = max(worst, largest_difference(outputs["attention"], attention))
            if scale == 1 and worst <= FORM_LIMIT:  # and shapes are alike
                median = max(median, float(np.median(drift(outputs["prediction"], answers))))
    require(worst, FORM_LIMIT, "the largest difference of the fp32 package from the training form", _REMEDY)
    require(median, FORM_DRIFT, "the median drift (1 - cosine) of the fp32 package from the training form", _REMEDY)
    return worst


def prove_package(package: Path, options: CoreMLOptions, samples: Sequence[Sample], *, form_difference: float) -> Proof:
    """Compare the package to ship with the known answers of `samples`, at every batch size.

    Raises VerificationFailed with the figure if it is too far off for its precision, or drifts more than
    `options.max_drift` if it is compressed, or answers zeros with anything but finite numbers.
    """
    functions = options.functions
    differences = dict.fromkeys(("exact", "fp16", "narrow"), 0.0)
    for mode in differences:
        runner = PackageRunner(package, functions, mode=mode)
        for size in list(functions)[: 1 if mode == "narrow" else None]:
            for sample in samples:
                differences[mode] = max(differences[mode], _difference(runner, sample, size, options))
            _require_finite(runner, samples[0].contexts.shape[1:], size, mode)
    largest = max(functions)
    rounded = AnyBatch(PackageRunner(package, {largest: functions[largest]}, mode="fp16"), (largest,)).run
    answers = np.concatenate([rounded(sample.contexts) for sample in samples])
    known = np.concatenate([sample.predictions for sample in samples])
    drifts = drift(answers, known)
    proof = Proof(
        form_difference=form_difference,
        exact_difference=differences["exact"],
        largest_difference=differences["fp16"],
        narrow_difference=differences["narrow"],
        worst_drift=float(drifts.max()),
        median_drift=float(np.median(drifts)),
        verified_on=len(drifts),
        core_ml_drift=_by_core_ml(package, options, samples) if platform.system() == "Darwin" else None,
    )
    longer = largest_length_difference(answers, known)
    require(longer, LENGTH_LIMIT, "the largest difference in the length of a prediction, rounded,", _REMEDY)
    _judge(proof, options, max(1.0, (LIMITS_AT / samples[0].contexts.shape[2]) ** 0.5))
    return replace(proof, search=search(rounded, samples, "coreml"))


def _judge(proof: Proof, options: CoreMLOptions, wider: float) -> None:
    if options.compress != "none":
        what = f"--compress {options.compress}: drift (1 - cosine) from the training form"
        worst = max(proof.worst_drift, proof.core_ml_drift or 0.0)
        require(worst, options.max_drift, what, "use milder compression or a larger --max-drift")
        return
    half = options.precision == "fp16"
    exact, rounded = (WEIGHTS_LIMIT * wider, ROUNDED_LIMIT * wider) if half else (FORM_LIMIT, FP32_ABSOLUTE_LIMIT)
    require(proof.exact_difference, exact, "the largest difference of the package in float64", _REMEDY)
    require(proof.largest_difference, rounded, "the largest difference of the package, rounded,", _REMEDY)
    require(proof.worst_drift, 1.0 - COSINE_LIMIT, "drift (1 - cosine) from the training form", _REMEDY)
    if proof.core_ml_drift is not None:
        require(
            proof.core_ml_drift, DRIFT_LIMITS[options.precision], "drift (1 - cosine) in Core ML on this Mac", _REMEDY
        )


def _difference(runner: PackageRunner, sample: Sample, size: int, options: CoreMLOptions) -> float:
    outputs = runner.outputs(_cycled(sample.contexts, size))
    if sample.attention is not None:
        off = largest_difference(outputs["attention"], _cycled(sample.attention, size))
        require(
            off, ATTENTION_LIMITS[options.manifest_precision], "the largest difference in an attention weight", _REMEDY
        )
    return largest_difference(outputs["prediction"], _cycled(sample.predictions, size))


def _require_finite(runner: PackageRunner, shape: tuple[int, ...], size: int, mode: str) -> None:
    outputs = runner.outputs(np.zeros((size, *shape), np.float32))
    for name, values in outputs.items():
        if not np.isfinite(values).all():
            raise VerificationFailed(
                f"contexts of zeros make {name} NaN or infinite at batch {size} ({mode} arithmetic); nothing was kept"
            )


def _by_core_ml(package: Path, options: CoreMLOptions, samples: Sequence[Sample]) -> float:
    """Return the largest drift that Core ML itself shows on this Mac, over every batch size."""
    from lvm_runtime.backends.coreml import CoreMLBackend

    with closing(CoreMLBackend(package, device="cpu")) as backend:
        pairs = [(s, AnyBatch(backend, (size,))) for s in samples for size in options.functions]
        return max(max_drift(runner.run(sample.contexts), sample.predictions) for sample, runner in pairs)


def _cycled(rows: NDArray[Any], count: int) -> NDArray[Any]:
    """Return `count` rows, starting over where there are fewer."""
    return rows[np.arange(count) % len(rows)]
