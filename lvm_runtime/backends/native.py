"""The native engine: int8 and fp32 on the CPU, with numpy and this package's own extension alone.

The engine has threads of its own. They share out the windows of a large batch and the columns of a small one's
products, sleep when there is nothing to do, and hold no interpreter lock. A child process runs on one thread.

b batch, T context length, D vector.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lvm_runtime.backends.base import Array, LightBackend
from lvm_runtime.contexts import UNIT_NORM, is_usable
from lvm_runtime.errors import ArtifactError, BackendUnavailable, LvmError
from lvm_runtime.system import extras
from lvm_runtime.system.cpus import usable_cpus

PATH_VARIABLE = "LVM_NATIVE_PATH"
"""The environment variable that names the instructions to use, one of `lvm_runtime.native._engine.paths()`."""


class NativeBackend(LightBackend):
    """Run a file made by `lvm-runtime export native`; it takes contexts of any batch, or the vectors of a document.

    `instructions` is the kind of CPU instructions that it runs on. Every kind gives the same bits.
    """

    name: ClassVar[str] = "native"
    format: ClassVar[str | None] = "native"
    exports: ClassVar[Mapping[str, str]] = {"fp32": "", "int8": " --precision int8"}
    framework: ClassVar[str] = "lvm_runtime.native._engine"
    install: ClassVar[str] = f"{extras.build_command()}, with a C++17 compiler"
    packages: ClassVar[tuple[str, ...]] = ("lvm_runtime",)

    def __init__(
        self, source: Path, *, device: str = "auto", threads: int | None = None, precision: str | None = None
    ) -> None:
        engine_module = self.load_framework()
        if device not in ("auto", "cpu"):
            raise BackendUnavailable(f"backend native runs on the cpu, and device {device!r} was asked for")
        self.device = "cpu"
        self.threads = threads or usable_cpus()
        try:
            with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                engine = engine_module.Engine(content, os.environ.get(PATH_VARIABLE, ""), self.threads)
        except engine_module.FileError as error:
            raise ArtifactError(f"{source}: {error}; export it again") from error
        except OSError as error:
            raise ArtifactError(f"{source}: it cannot be read ({error})") from error
        except ValueError as error:  # an empty file, or instructions that are not there
            kind = BackendUnavailable if PATH_VARIABLE in os.environ else ArtifactError
            raise kind(f"{source}: {error}") from error
        self._engine: Any = engine
        about = engine.about
        self._take(source, about, precision)
        self.instructions = about["instructions"]
        self._width, self._length = about["dim"], about["context_length"]

    @classmethod
    def describe(cls) -> str:
        """Return also the kinds of CPU instructions that there are here, the fastest first."""
        return f"{super().describe()} ({', '.join(cls.load_framework().paths())})"

    def run(self, contexts: Array) -> Array:
        """Return predictions `[b, D]` for contexts `[b, T, D]`, or for the windows of the vectors `[N, D]`."""
        prediction = np.empty((len(contexts) - self._overlap, self._width), np.float32)
        self._open().run(contexts, prediction)
        return prediction

    def run_usable(self, contexts: Array) -> Array | None:
        """Do what `run` does, and look at each vector when it is read, which takes nearly no time then.

        The engine knows of vectors that are too long, and not of those that are too short.
        """
        if self.largest_norm == UNIT_NORM and not is_usable(contexts, UNIT_NORM):
            return None
        prediction = np.empty((len(contexts) - self._overlap, self._width), np.float32)
        return prediction if self._open().run(contexts, prediction, None, self.largest_norm) else None

    def run_with_attention(self, contexts: Array) -> tuple[Array, Array]:
        """Return predictions `[b, D]` and attention `[b, T]`."""
        rows = len(contexts) - self._overlap
        prediction, attention = np.empty((rows, self._width), np.float32), np.empty((rows, self._length), np.float32)
        self._open().run(contexts, prediction, attention)
        return prediction, attention

    def after_fork(self) -> None:
        """Nothing to do: in a child process the engine runs on one thread with memory of its own."""

    def close(self) -> None:
        """Let the engine go; its threads end when no run needs them any more."""
        self._engine = None

    def _open(self) -> Any:
        engine = self._engine
        if engine is None:
            raise LvmError("this backend is closed")
        return engine
