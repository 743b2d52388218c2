"""What every benchmark runs on: models with nothing left at zero, contexts that look like documents.

B batch, T context length, D vector.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.forms import build_form, multiply_adds
from export.randomise import randomise
from export.source import Source
from export.verify import Sample, make_samples
from lvm_runtime.artifact.config import make_config
from lvm_runtime.artifact.fingerprint import random_contexts
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.models import build_model, known_answers, parameter_count, save_model

DISTINCT_CONTEXTS = 256
"""Contexts with known answers; larger batches repeat them, so that every row that is timed is also checked."""

WEIGHT_SEED, CONTEXT_SEED = 0, 2
"""Seeds of the random weights and of the contexts, which are not the probes on which int8 is calibrated."""

Array = NDArray[np.float32]


def _onnx(source: Source, samples: Sequence[Sample], precision: str) -> Artifact:
    from export.onnx.export import export_onnx

    return export_onnx(source, samples, precision)


def _onnx_sequence(source: Source, samples: Sequence[Sample], precision: str) -> Artifact:
    from export.onnx.export import export_sequence

    return export_sequence(source, samples)


def _native(source: Source, samples: Sequence[Sample], precision: str) -> Artifact:
    from export.native.export import export_native

    return export_native(source, samples, "context", precision)


def _native_sequence(source: Source, samples: Sequence[Sample], precision: str) -> Artifact:
    from export.native.export import export_native

    return export_native(source, samples, "sequence", precision)


def _torchscript(source: Source, samples: Sequence[Sample], precision: str) -> Artifact:
    from export.torchscript import export_torchscript

    return export_torchscript(source, samples)


def _coreml(source: Source, samples: Sequence[Sample], precision: str) -> Artifact:
    from export.coreml.export import export_coreml

    return export_coreml(source, samples)


_EXPORTERS = {
    ("onnx", "context"): _onnx,
    ("onnx", "sequence"): _onnx_sequence,
    ("native", "context"): _native,
    ("native", "sequence"): _native_sequence,
    ("torchscript", "context"): _torchscript,
    ("coreml", "context"): _coreml,
}


class Workload:
    """One architecture at one size: its artifact, its training form, and contexts with float64 answers."""

    def __init__(self, architecture: str, folder: Path, seed: int = WEIGHT_SEED, **config: Any) -> None:
        self.architecture = architecture
        self.model = randomise(build_model(make_config(architecture, **config)), seed=seed)
        self.artifact: Artifact = save_model(self.model, folder / architecture)
        self.parameters = parameter_count(self.model)
        self.macs_rewritten = multiply_adds(build_form(self.model))
        self.export_seconds: dict[str, float] = {}
        self._samples: tuple[Sample, ...] = ()
        self.scratch = folder / f"{architecture}-peers"
        self.scratch.mkdir()
        size = self.artifact.config
        self._contexts = random_contexts(DISTINCT_CONTEXTS, size.context_length, size.dim, seed=CONTEXT_SEED)
        self._answers = known_answers(self.model, self._contexts)[0]

    def export(self, format: str, precision: str, form: str = "context") -> None:
        """Add a verified compiled form to the artifact unless it is there already, and note how long that took."""
        self.artifact = Artifact.load(self.artifact.path)
        if self.artifact.find(format, precision=precision, form=form):
            return
        source = Source(self.artifact, self.model)
        self._samples = self._samples or make_samples(source)
        began = time.perf_counter()
        self.artifact = _EXPORTERS[format, form](source, self._samples, precision)
        self.export_seconds[self.artifact.manifest.compiled[-1].file.path] = time.perf_counter() - began

    def batch(self, size: int) -> Array:
        """Return contexts `[size, T, D]`."""
        return self._contexts[np.arange(size) % DISTINCT_CONTEXTS]

    def answers(self, size: int) -> NDArray[np.float64]:
        """Return the float64 answers `[size, D]` to `batch(size)`."""
        return self._answers[np.arange(size) % DISTINCT_CONTEXTS]
