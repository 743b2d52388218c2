"""What a Predictor says of itself: what was asked for, what runs, and what was ruled out and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lvm_runtime.request import Request
from lvm_runtime.selection.candidates import Refusal


@dataclass(frozen=True, slots=True)
class Route:
    """One running form: for which batch sizes it is used, where it runs, and how far it is from the known answers.

    `drift` is 1 − cosine, the largest over the probes, measured here when it was loaded.
    """

    batches: str
    backend: str
    device: str
    precision: str
    threads: int | None
    file: str
    drift: float

    def __str__(self) -> str:
        threads = f", {self.threads} thread{'s' * (self.threads != 1)}" if self.threads else ""
        return (
            f"{self.batches}: {self.backend} {self.precision} on {self.device}{threads}, "
            f"drift {self.drift:.1e} ({self.file})"
        )


@dataclass(frozen=True, slots=True)
class Explanation:
    """The account that `Predictor.explain` gives; print it, or take it apart with `to_dict`."""

    artifact: str
    architecture: str
    requested: Request
    routes: tuple[Route, ...]
    refused: tuple[Refusal, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        asked = ", ".join(f"{name} {value}" for name, value in asdict(self.requested).items() if value is not None)
        lines = [f"{self.architecture} from {self.artifact}", f"  asked for: {asked}"]
        lines += [f"  running, {route}" for route in self.routes]
        lines += [f"  ruled out: {refusal}" for refusal in self.refused]
        return "\n".join(lines)
