"""What every benchmark runs on: models with nothing left at zero, contexts that look like documents.

B batch, T context length, D vector.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.formats import exports
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


class Workload:
    """One architecture at one size: its artifact, its training form, and contexts with float64 answers."""

    def __init__(self, architecture: str, folder: Path, **config: Any) -> None:
        self.architecture = architecture
        self.model = randomise(build_model(make_config(architecture, **config)), seed=WEIGHT_SEED)
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
        name = precision if form == "context" else f"{form}-{precision}"
        began = time.perf_counter()
        export = next(make for path, make in exports(source, self._samples, [format]) if Path(path).stem == name)
        self.artifact = export()
        self.export_seconds[self.artifact.manifest.compiled[-1].file.path] = time.perf_counter() - began

    def batch(self, size: int) -> Array:
        """Return contexts `[size, T, D]`."""
        return self._contexts[np.arange(size) % DISTINCT_CONTEXTS]

    def answers(self, size: int) -> NDArray[np.float64]:
        """Return the float64 answers `[size, D]` to `batch(size)`."""
        return self._answers[np.arange(size) % DISTINCT_CONTEXTS]
