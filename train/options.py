"""What a training run can be told. The defaults are the recipe that all four architectures share.

The recipe: AdamW, learning rate 0.0005, weight decay 0.01, batch 32, 20 epochs, gradient clipping at 1.0,
the rate halved after three epochs without progress, MSE on the normalised prediction. Departures from it
are named, either one by one or as the `tuned` recipe of an architecture, and end up in the artifact.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from numbers import Real
from pathlib import Path
from typing import Any

from lvm_runtime.arguments import file_name, whole_number
from lvm_runtime.artifact.config import ModelConfig, make_config
from lvm_runtime.artifact.folder import DEFAULT_ROOT
from lvm_runtime.errors import InvalidInput

LOSSES = ("mse", "infonce", "ranking")
STARTS = ("default", "baseline", "ranked")
JUDGES = ("cosine", "mrr", "both")
SPLITS = ("last", "random")
SCHEDULES = ("plateau", "cosine")
PRECISIONS = ("fp32", "bf16")

RUN = ".run"
"""How the name of the folder of a run's checkpoint and figures ends, after that of the artifact."""

LARGEST_SEED = 2**32 - 1

RESIDENT_BYTES = 4 << 30
"""Vectors up to this size in float32 are copied to the device."""

_FITTED: dict[str, Any] = {
    "start": "baseline",
    "learning_rate": 1e-5,
    "schedule": "cosine",
    "ema": 0.9,
    "batch_size": 128,
    "epochs": 2,
}

TUNED: dict[str, dict[str, Any]] = {
    "amn": {"learning_rate": 1e-4, "ema": 0.99, "epochs": 4},
    "lstm": _FITTED,
    "gru": _FITTED,
    "transformer": _FITTED,
}
"""Named departures from the recipe for corpora of real documents, all of which beat the linear average there: an AMN
that learns slowly, and the other three from a linear fit, whose last layer is so small that a larger rate undoes it in
an epoch. `docs/experiments` has the figures of what was run."""

_RANKING: dict[str, Any] = {
    "loss": "ranking",
    "temperature": 0.05,
    "judge": "mrr",
    "batch_size": 256,
    "schedule": "cosine",
    "ema": 0.99,
    "vector_dropout": 0.1,
    "epochs": 2,
}
_RANKED_START: dict[str, Any] = _RANKING | {"start": "ranked", "learning_rate": 1e-5, "epochs": 1}

RETRIEVAL: dict[str, dict[str, Any]] = {
    "amn": _RANKING | {"learning_rate": 3e-4, "sizes": {"recency": True}},
    "lstm": _RANKED_START,
    "gru": _RANKED_START,
    "transformer": _RANKED_START,
}
"""Named departures for models that are searched with: a loss that ranks over the corpus, from the recency-weighted
average (AMN) or a linear map of it that ranks (the others), and the epoch with the best reciprocal rank."""

NAMED_RECIPES: dict[str, dict[str, dict[str, Any]]] = {"tuned": TUNED, "retrieval": RETRIEVAL}
RECIPES = ("reference", *NAMED_RECIPES)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """Everything that determines a run. Checked here, so that a slip costs seconds and not an epoch.

    Fractions are of documents. `sizes` overrides fields of the model's config (`hidden_dim`, `dropout`, …).
    `resident_bytes` is the size up to which vectors are copied to the device.

    >>> options = TrainOptions(model="lstm", sizes={"hidden_dim": 256})
    >>> options.config(dim=384)
    LSTMConfig(dim=384, context_length=5, hidden_dim=256, ...)
    """

    model: str
    data: str = "bundled"
    out: Path | None = None
    start: str = "default"
    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    schedule: str = "plateau"
    loss: str = "mse"
    temperature: float = 0.07
    cosine_weight: float = 0.0
    candidates: int = 65_536
    judge: str = "cosine"
    input_noise: float = 0.0
    vector_dropout: float = 0.0
    ema: float = 0.0
    precision: str = "fp32"
    compile: bool = False
    device: str = "auto"
    seed: int = 0
    context_length: int = 5
    validation: float = 0.1
    test: float = 0.0
    split: str = "last"
    queries: int = 1000
    normalize: bool = False
    windows: int = 80_000
    dim: int = 768
    trust_pickle: bool = False
    resume: bool = False
    checkpoint_every: int = 0
    resident_bytes: int = RESIDENT_BYTES
    sizes: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._make_plain()
        for name in ("learning_rate", "grad_clip", "temperature"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "a positive number")
        for name in ("weight_decay", "input_noise", "cosine_weight"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "not negative")
        for name in ("ema", "vector_dropout"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "a number in [0, 1)")
        _require(0 < self.validation < 1, "validation", self.validation, "a share between 0 and 1")
        _require(0 <= self.test < 1 - self.validation, "test", self.test, "a share that leaves training documents")
        for name, known in (
            ("loss", LOSSES),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
            ("split", SPLITS),
            ("start", STARTS),
            ("judge", JUDGES),
        ):
            _require(getattr(self, name) in known, name, getattr(self, name), f"one of {', '.join(known)}")
        if self.vector_dropout:
            _require(self.context_length > 1, "vector_dropout", self.vector_dropout, "0 with contexts of one vector")
        if self.loss == "infonce":
            _require(self.batch_size > 1, "batch_size", self.batch_size, "more than 1: InfoNCE's negatives are there")
        if self.loss == "ranking":
            _require(not self.compile, "compile", True, "none with --loss ranking, whose blocks are not compiled")
        else:
            _require(self.start != "ranked", "start", self.start, "ranked with --loss ranking only")
        name = self.artifact_path.name
        _require(name not in ("", ".."), "out", str(self.out), "the path of a folder with a name")
        _require(not name.endswith(RUN), "out", str(self.out), f"a name without {RUN}, as folders of figures end")
        self.config(dim=self.dim)

    def _make_plain(self) -> None:
        """Turn paths and numbers of any kind into what JSON takes: the run's last step writes them into the artifact.

        Raises InvalidInput for what is no path or number, and for counts that are not whole or too small.
        """
        plain: dict[str, Any] = {"data": os.fspath(self.data) if isinstance(self.data, os.PathLike) else self.data}
        plain["out"] = None if self.out is None else file_name(self.out, "out")
        for name in ("epochs", "batch_size", "context_length", "windows", "dim"):
            plain[name] = whole_number(getattr(self, name), name)
        for name in ("checkpoint_every", "candidates", "queries", "resident_bytes"):
            plain[name] = whole_number(getattr(self, name), name, least=0)
        plain["seed"] = whole_number(self.seed, "seed", least=0, most=LARGEST_SEED)
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(item.default, float):
                number = isinstance(value, Real) and not isinstance(value, bool)
                _require(number, item.name, value, f"a number, such as {item.default:g}")
                plain[item.name] = float(value)
            elif isinstance(item.default, bool):
                _require(value in (True, False), item.name, value, "true or false")
                plain[item.name] = bool(value)
        _require(isinstance(self.sizes, Mapping), "sizes", self.sizes, "a mapping, such as {'hidden_dim': 256}")
        plain["sizes"] = {k: v.item() if hasattr(v, "item") else v for k, v in self.sizes.items()}
        _require(isinstance(plain["data"], str), "data", self.data, "bundled, synthetic or the path of a corpus")
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    def config(self, dim: int) -> ModelConfig:
        """Return the model's config for vectors of size `dim`. Raises InvalidInput for unknown sizes."""
        for name, way in (("dim", "the size of the data's vectors"), ("context_length", "set by --context-length")):
            if name in self.sizes:
                raise InvalidInput(f"{name} is {self.sizes[name]!r} among the sizes, but it is {way}; leave it out")
        return make_config(self.model, dim=dim, context_length=self.context_length, **self.sizes)

    @property
    def artifact_path(self) -> Path:
        """Where the artifact goes: `out`, or artifacts/MODEL.

        >>> TrainOptions(model="gru").artifact_path.as_posix()
        'artifacts/gru'
        """
        return self.out or DEFAULT_ROOT / self.model

    @property
    def run_path(self) -> Path:
        """Where the checkpoint and the figures of the run go: beside the artifact, with `.run` appended.

        >>> TrainOptions(model="gru").run_path.as_posix()
        'artifacts/gru.run'
        """
        return self.artifact_path.with_name(self.artifact_path.name + RUN)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values = asdict(self)
        return values | {"out": str(self.artifact_path), "sizes": dict(self.sizes)}


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise InvalidInput(f"{name} is {value!r}, expected {expected}")
