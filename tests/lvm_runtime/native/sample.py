"""A native file of random weights with contexts and the training form's answers, for tests of the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export.forms import build_form
from export.native.export import write_native
from lvm_runtime.artifact.fingerprint import random_contexts
from lvm_runtime.models import known_answers
from tests.artifacts import randomised

_engine = pytest.importorskip("lvm_runtime.native._engine", reason="the extension is not built")

ODD = {
    "lstm": {"hidden_dim": 40},
    "gru": {"hidden_dim": 72, "num_layers": 2},
    "transformer": {"hidden_dim": 60, "num_heads": 3, "ffn_dim": 100, "num_layers": 2},
    "amn": {"hidden_dim": 90, "attention_dim": 33, "bottleneck_dim": 50},
}
"""Widths that are no multiple of 64, and mostly none of 16."""

DRIFT = {"int8": 4e-4, "fp32": 1e-12}
"""Limits; narrow widths average fewer roundings in int8, and in fp32 1 − cosine is the square of what rounding adds."""


class Case:
    """A native file of random weights with contexts `[B, T, D]` and the training form's answers."""

    def __init__(
        self,
        architecture: str,
        folder: Path,
        kind: str = "context",
        rows: int = 40,
        precision: str = "int8",
        **sizes: Any,
    ) -> None:
        self.model: Any = randomised(architecture, seed=2, **{"dim": 96} | ODD[architecture] | sizes)
        self.length, self.dim = self.model.config.context_length, self.model.config.dim
        path = folder / f"{architecture}.safetensors"
        write_native(build_form(self.model), path, kind, precision=precision)
        self.content = path.read_bytes()
        self.contexts = random_contexts(rows, self.length, self.dim)

    def answers(self) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        return known_answers(self.model, self.contexts)

    def engine(self, path: str = "", threads: int = 1) -> Any:
        return _engine.Engine(self.content, path, threads)

    def run(self, engine: Any, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        contexts = self.contexts[start:stop]
        prediction = np.full((len(contexts), self.dim), np.nan, np.float32)
        engine.run(contexts, prediction)
        return prediction
