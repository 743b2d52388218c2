"""What a Core ML export can be asked for, checked before anything is converted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lvm_runtime.artifact.drift import DRIFT_LIMITS
from lvm_runtime.artifact.limits import LARGEST_BATCH
from lvm_runtime.errors import InvalidInput

SHAPES = ("multifunction", "enumerated", "static")
PRECISIONS = ("fp16", "fp32")
COMPRESSIONS = ("none", "palette8", "palette6", "palette4", "int8")
TARGETS = ("macOS13", "macOS14", "macOS15", "macOS26")
COMPUTE_UNITS = ("ane", "gpu", "cpu", "all")
GELUS = ("table", "erf")
BATCH_SIZES = (1, 8, 32, 128)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreMLOptions:
    """Choices of one export; the defaults are what most people want.

    `shapes`: "multifunction" puts one static function per batch size into the package, sharing the weights (macOS 15
    and later); "enumerated" is one function that takes these batch sizes; "static" is one function for one size.
    `target` is the oldest system that can load it (None: the oldest that `shapes` allows, macOS 14 at least).
    `max_drift` bounds the drift of a compressed package. `compute_units` is a recommendation to whoever loads it.
    `gelu`: "table" keeps Core ML's fused operation, which some devices look up in a table, "erf" spells it out.

    Raises InvalidInput for choices that do not fit each other.

    >>> CoreMLOptions(compress="palette8").name
    'fp16-palette8'
    """

    shapes: str = "multifunction"
    batch_sizes: tuple[int, ...] = BATCH_SIZES
    precision: str = "fp16"
    compress: str = "none"
    max_drift: float = DRIFT_LIMITS["int8"]
    target: str | None = None
    compute_units: str = "ane"
    gelu: str = "table"

    def __post_init__(self) -> None:
        _check_choices(self)
        sizes = checked_sizes(self.batch_sizes)
        if self.shapes == "static" and len(sizes) > 1:
            raise InvalidInput(
                f"--shapes static takes one batch size, got {', '.join(map(str, sizes))}; give one with --batch-sizes, "
                "or use --shapes multifunction or enumerated"
            )
        object.__setattr__(self, "batch_sizes", sizes)
        lowest = "macOS15" if self.shapes == "multifunction" else "macOS14"
        target = self.target or lowest
        if self.shapes == "multifunction" and TARGETS.index(target) < TARGETS.index(lowest):
            raise InvalidInput(
                f"--shapes multifunction needs --target {lowest} or later, got {target}; use --shapes enumerated"
            )
        object.__setattr__(self, "target", target)
        if not self.max_drift > 0:
            raise InvalidInput(f"max_drift is {self.max_drift}, expected a number above 0 such as 1e-3")

    @property
    def name(self) -> str:
        """Name of the package inside the artifact: "fp16", "fp16-palette8", "fp32-enumerated", …

        >>> CoreMLOptions(compress="palette8").name
        'fp16-palette8'
        """
        parts = [self.precision]
        parts += [self.compress] if self.compress != "none" else []
        parts += [self.shapes] if self.shapes != "multifunction" else []
        parts += ["erf"] if self.gelu == "erf" else []
        return "-".join(parts)

    @property
    def manifest_precision(self) -> str:
        """The precision class by which the runtime judges its drift; compressed weights count as int8."""
        return "int8" if self.compress != "none" else self.precision

    @property
    def functions(self) -> dict[int, str]:
        """Batch size to the name of the function that takes it."""
        named = self.shapes == "multifunction"
        return {size: f"batch{size}" if named else "main" for size in self.batch_sizes}

    @property
    def programs(self) -> dict[str, tuple[int, ...]]:
        """Name of each function in the package to the batch sizes that it takes."""
        if self.shapes == "multifunction":
            return {name: (size,) for size, name in self.functions.items()}
        return {"main": self.batch_sizes}

    def details(self) -> dict[str, Any]:
        """Return what the manifest should remember, as JSON values."""
        names = ("shapes", "compress", "target", "compute_units", "gelu")
        return {name: getattr(self, name) for name in names}


def checked_sizes(batch_sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return fixed batch sizes sorted and each once; InvalidInput for what is none."""
    sizes = tuple(sorted(set(batch_sizes)))
    if not sizes or any(not isinstance(size, int) or not 1 <= size <= LARGEST_BATCH for size in sizes):
        raise InvalidInput(
            f"batch_sizes is {batch_sizes!r}, expected positive integers such as 1,8,32,128, "
            f"and at most {LARGEST_BATCH}"
        )
    return sizes


def _check_choices(options: CoreMLOptions) -> None:
    choices = {
        "shapes": SHAPES,
        "precision": PRECISIONS,
        "compress": COMPRESSIONS,
        "compute_units": COMPUTE_UNITS,
        "gelu": GELUS,
        "target": (None, *TARGETS),
    }
    for name, known in choices.items():
        value = getattr(options, name)
        if value not in known:
            listed = ", ".join(str(k) for k in known if k is not None)
            raise InvalidInput(f"{name} is {value!r}, expected one of {listed}")
