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
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.models import build_model, known_answers, parameter_count, save_model

DISTINCT_CONTEXTS = 256
"""Contexts with known answers; larger batches repeat them, so that every row that is timed is also checked."""

TINY: dict[str, dict[str, int]] = {
    "lstm": {"dim": 32, "hidden_dim": 16},
    "gru": {"dim": 32, "hidden_dim": 16, "num_layers": 2},
    "transformer": {"dim": 32, "hidden_dim": 16, "num_heads": 2, "ffn_dim": 32, "num_layers": 2},
    "amn": {"dim": 32, "attention_dim": 16, "hidden_dim": 24, "bottleneck_dim": 16},
}
"""Sizes at which the benchmarks can be tried out in seconds."""

WEIGHT_SEED = 0
"""Seed of the random weights."""

Array = NDArray[np.float32]


def contexts(count: int, dim: int, context_length: int, seed: int = 0) -> Array:
    """Return unit vectors `[count, T, D]` that share a direction and, within a context, a topic.

    Zeros, or noise without a shared direction, would flatter whatever skips or saturates on them.
    """
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal(dim) * 0.8
    vectors = vectors + rng.standard_normal((count, 1, dim)) * 0.8 + rng.standard_normal((count, context_length, dim))
    return (vectors / np.linalg.norm(vectors, axis=2, keepdims=True)).astype(np.float32)


def _onnx(source: Source, samples: Sequence[Sample], precision: str) -> Artifact:
    from export.onnx.export import export_onnx

    return export_onnx(source, samples, precision)


def _onnx_sequence(source: Source, samples: Sequence[Sample], precision: str) -> Artifact:
    from export.onnx.export import export_sequence

    return export_sequence(source, samples)


def _torchscript(source: Source, samples: Sequence[Sample], precision: str) -> Artifact:
    from export.torchscript import export_torchscript

    return export_torchscript(source, samples)


def _coreml(source: Source, samples: Sequence[Sample], precision: str) -> Artifact:
    from export.coreml.export import export_coreml

    return export_coreml(source, samples)


_EXPORTERS = {
    ("onnx", "context"): _onnx,
    ("onnx", "sequence"): _onnx_sequence,
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
        self._contexts = contexts(DISTINCT_CONTEXTS, size.dim, size.context_length, seed)
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
