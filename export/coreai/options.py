"""What a Core AI export can be asked for, checked before anything is converted."""

from __future__ import annotations

from dataclasses import dataclass

from lvm_runtime.errors import InvalidInput

from ..coreml.options import BATCH_SIZES, COMPRESSIONS, checked_sizes

SHAPES = ("dynamic", "static")
PRECISIONS = ("fp32", "fp16")


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreAIOptions:
    """Choices of one export.

    `shapes`: "dynamic" is one function for any batch size, of linear layers, as Apple advises for the GPU and the CPU.
    "static" has one function per size of `batch_sizes`, of 1×1 convolutions on (B, C, 1, S), as Apple advises for the
    Neural Engine, which takes fp16 only. The functions share their weights. `compress` makes the weights smaller.

    Raises InvalidInput for what is none of the choices.

    >>> CoreAIOptions(shapes="static", precision="fp16").fixed_sizes
    (1, 8, 32, 128)
    """

    shapes: str
    precision: str
    batch_sizes: tuple[int, ...] = BATCH_SIZES
    compress: str = "none"

    def __post_init__(self) -> None:
        for name, known in (("shapes", SHAPES), ("precision", PRECISIONS), ("compress", COMPRESSIONS)):
            if (value := getattr(self, name)) not in known:
                raise InvalidInput(f"{name} is {value!r}, expected one of {', '.join(known)}")
        object.__setattr__(self, "batch_sizes", checked_sizes(self.batch_sizes))

    @property
    def name(self) -> str:
        """Name of the asset inside the artifact.

        >>> CoreAIOptions(shapes="static", precision="fp32").name
        'fp32-static'
        """
        parts = [self.precision]
        parts += [self.compress] if self.compress != "none" else []
        parts += ["static"] if self.shapes == "static" else []
        return "-".join(parts)

    @property
    def manifest_precision(self) -> str:
        """The precision class by which the runtime judges its drift; compressed weights count as int8."""
        return "int8" if self.compress != "none" else self.precision

    @property
    def path(self) -> str:
        """Where the asset lies in the artifact."""
        return f"coreai/{self.name}.aimodel"

    @property
    def fixed_sizes(self) -> tuple[int, ...] | None:
        """The only batch sizes that the asset takes, or None."""
        return self.batch_sizes if self.shapes == "static" else None


USUAL = (CoreAIOptions(shapes="dynamic", precision="fp32"), CoreAIOptions(shapes="static", precision="fp16"))
"""What is made unless something else is asked for: exact and for any batch, and for the Neural Engine."""


def chosen(
    shapes: str | None, precision: str | None, batch_sizes: tuple[int, ...] = BATCH_SIZES, compress: str = "none"
) -> tuple[CoreAIOptions, ...]:
    """Return the exports that are meant: the usual ones that fit what is given, or exactly that.

    Compression is for the Neural Engine, unless something else is asked for.

    >>> [options.name for options in chosen(None, "fp16")]
    ['fp16-static']
    """
    if compress != "none" and shapes is None and precision is None:
        shapes = "static"
    pairs = [(usual.shapes, usual.precision) for usual in USUAL]
    if shapes is not None and precision is not None:
        pairs = [(shapes, precision)]
    return tuple(
        CoreAIOptions(shapes=pair[0], precision=pair[1], batch_sizes=batch_sizes, compress=compress)
        for pair in pairs
        if shapes in (None, pair[0]) and precision in (None, pair[1])
    )
