"""What a Predictor says of itself: what was asked for, what runs, and what was ruled out and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lvm_runtime.request import Request
from lvm_runtime.selection.candidates import Refusal


@dataclass(frozen=True, slots=True)
class Running:
    """The form that serves: where it runs, and how far it is from the known answers.

    `drift` is 1 − cosine, the largest over the probes, measured here when it was loaded; `instructions` are the CPU
    instructions that the backend chose, where it says so.
    """

    backend: str
    device: str
    precision: str
    threads: int | None
    file: str
    drift: float
    instructions: str | None = None

    def __str__(self) -> str:
        threads = f", {self.threads} thread{'s' * (self.threads != 1)}" if self.threads else ""
        device = f"{self.device} ({self.instructions})" if self.instructions else self.device
        return f"{self.backend} {self.precision} on {device}{threads}, drift {self.drift:.1e} ({self.file})"


@dataclass(frozen=True, slots=True)
class Explanation:
    """The account that `Predictor.explain` gives; print it, or take it apart with `to_dict`.

    >>> print(Predictor("artifacts/amn", backend="onnx", device="cpu").explain())
    amn from ...
      asked for: backend onnx, device cpu
      running: onnx fp32 on cpu, ... drift ...
    """

    artifact: str
    architecture: str
    requested: Request
    running: Running
    refused: tuple[Refusal, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values.

        >>> Predictor("artifacts/amn").explain().to_dict()["architecture"]
        'amn'
        """
        return asdict(self)

    def __str__(self) -> str:
        asked = ", ".join(f"{name} {value}" for name, value in asdict(self.requested).items() if value is not None)
        lines = [f"{self.architecture} from {self.artifact}", f"  asked for: {asked}"]
        lines.append(f"  running: {self.running}")
        lines += [f"  ruled out: {refusal}" for refusal in self.refused]
        return "\n".join(lines)
