"""What a backend is: a class that says what it needs and has, a constructor that refuses what it cannot honour, `run`.

b batch (one of `batch_sizes`, if those are fixed), T context length, D vector.
"""

from __future__ import annotations

import platform
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.contexts import is_usable
from lvm_runtime.errors import ArtifactError, BackendUnavailable, LvmError
from lvm_runtime.system.extras import installed
from lvm_runtime.system.imports import forked_with, load

Array = NDArray[np.float32]

REDUCED_LARGEST_NORM = 200.0
"""The `largest_norm` of fp16 and bf16, and of an int8 form that does not say its own.

The largest number of fp16 is 65,504: with random weights the Transformer overflows between 300 and 1,000, the AMN
between 1,000 and 3,000. In bf16 nothing overflows, but scores of attention are rounded by more than they differ: the
Transformer's drift is 2e-4 up to a norm of 200, over 1e-3 at 1,000 and 0.1 at 10,000.
"""
ATTENTION_LARGEST_NORM = 64.0
"""The same for a model with attention weights to give back, which go beyond their limit before predictions do.

In bf16 (D = 384 and 768) they are off by 0.005 at a norm of 50, 0.02 at 100 and up to 0.08 at 200.
"""
_SYSTEMS = {"Darwin": "macOS"}


class Backend(ABC):
    """One compiled (or eager) model, ready to run on one device.

    The module of a backend can be imported without its framework: what the class says is known before anything heavy
    is loaded. Cutting, padding and types are the caller's work and not repeated here; only `run_usable` looks at what
    the vectors hold.
    """

    name: ClassVar[str]
    """The name by which it is asked for, and its key in the registry."""
    format: ClassVar[str | None]
    """The kind of compiled file that it reads; None: the artifact's training weights, through `load_model`."""
    framework: ClassVar[str]
    """The module that it imports."""
    install: ClassVar[str]
    """The command that installs the framework."""
    packages: ClassVar[tuple[str, ...]] = ()
    """The distributions that may hold the framework, where they are not called like the module."""
    system: ClassVar[str | None] = None
    """The only operating system that it runs on, as `platform.system()` says it; None: any."""
    precisions: ClassVar[tuple[str, ...] | None] = None
    """What it makes of full-precision weights; None: a file runs in the precision that it was made in."""
    exports: ClassVar[Mapping[str, str]] = {"fp32": ""}
    """The precisions of the files that `lvm-runtime export` writes in its format, each with the option for it."""
    light: ClassVar[bool] = False
    """Whether its framework loads in hundredths of a second, so that it may be tried while a Predictor is built."""
    slow_to_build: ClassVar[bool] = False
    """Whether building takes so long that it is used only when it is asked for by name or was tuned."""
    holds_code: ClassVar[bool] = False
    """Whether its files can hold code of their maker. A hash says that a file is what its manifest says, and not who
    wrote it: such a file is used only when the backend is asked for by name."""
    runs_sequences: ClassVar[bool] = False
    """Whether it runs sequence forms: vectors `[N, D]` in the place of contexts, one prediction per window."""
    several_runs: ClassVar[tuple[str, ...]] = ()
    """The devices on which several runs at once, with few threads each, use the CPUs better than one with all."""

    largest_norm: float = 1e6
    """The largest L2 norm that a vector may have. Up to it nothing overflows inside, where sums of squares and scores
    of attention grow with its square. Embeddings have norms of 1 to some hundreds."""
    device: str
    """Where it really runs, never "auto"."""
    precision: str
    """What it really computes in."""
    threads: int | None = None
    """Threads for one `run`; None where the runtime does not say."""
    instructions: str | None = None
    """The CPU instructions that it runs on; None where the runtime does not say."""
    batch_sizes: tuple[int, ...] | None = None
    """The only batch sizes it takes; None for any."""

    @abstractmethod
    def __init__(
        self, source: Path, *, device: str = "auto", threads: int | None = None, precision: str | None = None
    ) -> None:
        """Load the compiled file at `source` (without a `format`: the artifact's folder).

        `precision` is what the file is listed as, or the arithmetic that is asked for; None leaves it to the file.
        Raises BackendUnavailable for a missing framework, system or device and for any option that cannot be honoured,
        ArtifactError for a file that cannot be loaded or is of another precision.
        """

    @abstractmethod
    def run(self, contexts: Array) -> Array:
        """Return predictions `[b, D]` for contiguous contexts `[b, T, D]`."""

    def run_usable(self, contexts: Array) -> Array | None:
        """Return predictions `[b, D]`, or None if a vector is not finite or its norm is over `largest_norm`.

        For backends that read the input themselves, and can look at it meanwhile.
        """
        return self.run(contexts) if is_usable(contexts, self.largest_norm) else None

    def run_with_attention(self, contexts: Array) -> tuple[Array, Array]:
        """Return predictions `[b, D]` and attention `[b, T]`; only for models that have attention."""
        raise NotImplementedError(f"{self.name} has no attention output")

    def after_fork(self) -> None:
        """Get ready to run in a process that was forked off after this was built; LvmError if that cannot be.

        The threads that a framework has started, and its devices, are in the parent only.
        """
        raise LvmError(
            f"this Predictor was made before the process forked, and backend {self.name} on {self.device} does not "
            "live through that; make a new one after the fork"
        )

    def close(self) -> None:  # noqa: B027 (most backends hold nothing to release)
        """Release what the backend holds; it is not used afterwards."""

    @classmethod
    def missing(cls) -> str | None:
        """Say why it cannot run here without importing its framework, or None if nothing is known against it."""
        if cls.system not in (None, platform.system()):
            return f"it runs on {_SYSTEMS.get(cls.system or '', cls.system)} only, and this is {platform.system()}"
        if not installed(cls.framework):
            return f"it needs {cls.framework}; install it with: {cls.install}"
        return None

    @classmethod
    def require(cls) -> None:
        """Raise BackendUnavailable, with what to install, if it is known that it cannot run here."""
        if problem := cls.missing():
            raise BackendUnavailable(f"backend {cls.name} is not available: {problem}")

    @classmethod
    def load_framework(cls) -> Any:
        """Import the framework and return it; BackendUnavailable, with what to install, if that does not work."""
        cls.require()
        try:
            return load(cls.framework)
        except ImportError as error:
            raise BackendUnavailable(
                f"backend {cls.name} is not available: {cls.framework} cannot be imported ({error}); "
                f"install it again with: {cls.install}"
            ) from error

    @classmethod
    def version(cls) -> str | None:
        """Return the installed version of the framework without importing it; None if it is not installed."""
        from importlib import metadata  # slow to import, and seldom needed

        found = []
        for package in cls.packages or (cls.framework,):
            try:
                found.append(metadata.version(package))
            except metadata.PackageNotFoundError:
                continue
        return ", ".join(found) or None

    @classmethod
    def devices(cls) -> list[str]:
        """Return the devices that it can run on here, the preferred one first. Imports the framework."""
        cls.load_framework()
        return ["cpu"]

    @classmethod
    def describe(cls) -> str:
        """Return the framework's version and the devices that it can run on here. Imports the framework."""
        return f"{cls.framework} {cls.version()}, {', '.join(cls.devices())}"

    @classmethod
    def arithmetic(cls, precision: str | None) -> str:
        """Return what to compute full-precision weights in; BackendUnavailable if it cannot compute in `precision`."""
        assert cls.precisions is not None
        if precision is None:
            return cls.precisions[0]
        if precision not in cls.precisions:
            able = " or ".join(cls.precisions)
            raise BackendUnavailable(f"backend {cls.name} computes in {able}, and {precision} was asked for")
        return precision

    @classmethod
    def refuse_forked(cls) -> None:
        """Raise BackendUnavailable in a fork of a process that had the framework: for those that would wait for ever.

        They wait for threads, which are in the parent.
        """
        if forked_with(cls.framework):
            raise BackendUnavailable(
                f"backend {cls.name} cannot run in a process that was forked after {cls.framework} was imported; "
                "spawn the process, or fork before anything imports it"
            )

    @classmethod
    def refuse_threads(cls, threads: int | None) -> None:
        """Raise BackendUnavailable for a number of threads: for frameworks that choose it themselves."""
        if threads is not None:
            problem = f"chooses its threads itself, and {threads} were asked for; leave threads out"
            raise BackendUnavailable(f"backend {cls.name} {problem}")


class LightBackend(Backend):
    """A backend that loads in hundredths of a second and runs contexts and documents, on a CPU several at once."""

    light: ClassVar[bool] = True
    runs_sequences: ClassVar[bool] = True
    several_runs: ClassVar[tuple[str, ...]] = ("cpu",)
    threads: int
    _overlap: int
    """Vectors that a window shares with the next one: T − 1 for the vectors of a document, 0 for contexts."""

    def _take(self, source: Path, said: Mapping[str, Any], listed: str | None) -> None:
        """Take over what the file `source` says of itself: precision, form and context length."""
        self.precision = file_precision(source, said.get("precision"), listed)
        self._overlap = int(said["context_length"]) - 1 if said.get("form") == "sequence" else 0


def file_precision(source: Path, said: str | None, listed: str | None) -> str:
    """Return the precision of the file `source`, which says `said` of itself and is listed, or asked for, as `listed`.

    A file that says nothing (an older export) is what it is listed as, fp32 by default. Raises ArtifactError if the
    two differ.
    """
    if said and listed and said != listed:
        raise ArtifactError(
            f"{source}: it says that it is {said}, and it is listed or was asked for as {listed}; export it again"
        )
    return said or listed or "fp32"
