"""What the caller of a Predictor may ask for, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from lvm_runtime.arguments import finite_number, text, whole_number
from lvm_runtime.artifact.drift import DRIFT_LIMITS, PRECISIONS
from lvm_runtime.backends.registry import backend_class
from lvm_runtime.errors import InvalidInput
from lvm_runtime.system.cpus import most_threads

AUTO = "auto"
DEVICES = ("cpu", "cuda", "mps", "gpu", "ane", "all", "coreml")
"""What some backend calls a device; `all` leaves the choice to Apple's frameworks, `coreml` is onnxruntime's."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the caller of a Predictor asked for; None and "auto" leave the choice open.

    `max_drift` is the largest drift per row (1 − cosine) that a form may have. Left open it is 1e-6, which only
    full precision reaches, or the limit of the precision that was asked for. `typical_batch` is the batch size to
    be fastest at; None weighs single queries, small and large batches alike.

    Raises InvalidInput for an unknown name and for a number out of range.

    >>> Request(precision="int8", threads=0)
    Traceback (most recent call last):
    lvm_runtime.errors.InvalidInput: threads is 0, ...
    """

    backend: str = AUTO
    device: str = AUTO
    precision: str | None = None
    max_drift: float | None = None
    threads: int | None = None
    typical_batch: int | None = None

    def __post_init__(self) -> None:
        if text(self.device, "device", example="cpu") not in (AUTO, *DEVICES):
            raise InvalidInput(f"unknown device {self.device!r}; expected auto or one of {', '.join(DEVICES)}")
        if text(self.backend, "backend", example="auto") != AUTO:
            backend_class(self.backend)
        if self.precision is not None and text(self.precision, "precision", example="int8") not in PRECISIONS:
            raise InvalidInput(f"precision is {self.precision!r}, expected one of {', '.join(PRECISIONS)}")
        checked: dict[str, float | None] = {}
        if self.max_drift is not None:
            checked["max_drift"] = finite_number(self.max_drift, "max_drift", example="1e-3")
        if self.threads is not None:
            checked["threads"] = whole_number(self.threads, "threads", most=most_threads())
        if self.typical_batch is not None:
            checked["typical_batch"] = whole_number(self.typical_batch, "typical_batch")
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def drift_limit(self, precision: str) -> float:
        """Return the largest drift that a form of `precision` may show for this request.

        >>> Request().drift_limit("int8")
        1e-06
        >>> Request(max_drift=1e-3).drift_limit("int8")
        0.001
        """
        limit = DRIFT_LIMITS[precision]
        if self.max_drift is not None:
            return min(limit, self.max_drift)
        # a backend or precision asked for by name is the caller's choice of accuracy too
        named = self.precision is not None or self.backend != AUTO
        return limit if named else min(limit, DRIFT_LIMITS["fp32"])
