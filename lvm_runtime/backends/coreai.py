"""Core AI: `.aimodel` assets, on macOS 27 by the system's framework, elsewhere by the slow reference runtime.

Both are behind one asynchronous interface. A thread of the backend runs the event loop, so that a call costs no loop of
its own and may come from code that runs in one.

b batch, T context length, D vector.
"""

from __future__ import annotations

import hashlib
import sys
import threading
import weakref
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from lvm_runtime.artifact.files import read_plain
from lvm_runtime.artifact.limits import LARGEST_FILE
from lvm_runtime.backends.base import REDUCED_LARGEST_NORM, Array, Backend, file_precision
from lvm_runtime.errors import ArtifactError, BackendUnavailable, one_line
from lvm_runtime.system import extras
from lvm_runtime.system.imports import load

UNITS = {"all": "default", "ane": "neural_engine", "gpu": "gpu", "cpu": "cpu_only"}
"""Device to Core AI's name for it. Apple advises the default, which leaves the choice to the system."""
REFERENCE = "reference runtime"
PRECISION = "lvm.precision"
"""Where an asset says its precision; compressed weights are int8, whatever it computes in."""
_PROGRAM, _HASH = "main.mlirb", "main.hash"
_TYPES = {"float32": "fp32", "float16": "fp16"}

T = TypeVar("T")


class CoreAIBackend(Backend):
    """Run the asset at `source` on `device`: on macOS 27 all (the default), ane, gpu or cpu, elsewhere cpu.

    An asset has one function for any batch size, or one for each of some fixed sizes. Predictions in fp16 are scaled
    to norm 1 again in float32.
    """

    name: ClassVar[str] = "coreai"
    format: ClassVar[str | None] = "coreai"
    exports: ClassVar[Mapping[str, str]] = {"fp32": "", "fp16": "", "int8": " --compress int8"}
    framework: ClassVar[str] = "coreai"
    install: ClassVar[str] = extras.pip_command("coreai")
    packages: ClassVar[tuple[str, ...]] = ("coreai-core",)
    holds_code: ClassVar[bool] = True
    """An asset may hold Metal kernels."""

    def __init__(
        self, source: Path, *, device: str = "auto", threads: int | None = None, precision: str | None = None
    ) -> None:
        self.refuse_forked()
        asset = self.load_framework()
        self.refuse_threads(threads)
        able = self.devices()
        self.device = able[0] if device == "auto" else device
        if self.device not in able:
            raise BackendUnavailable(
                f"backend coreai has no device {device!r} here; it has {', '.join(able)}, and on macOS 27 or later "
                f"{', '.join(UNITS)}"
            )
        self.instructions = None if _on_system() else REFERENCE
        _check_asset(source)
        self._to_array = load("coreai.runtime").NDArray
        self._loop = _EventLoop()
        try:
            options = specialisation(self.device) if _on_system() else None
            functions = self._loop.run(_load_functions(asset.AIModelAsset, source, options))
            self._functions, self._type = _by_batch(functions, source)
            said = _metadata(asset.AIModelAsset.load(source)).get(PRECISION, _TYPES[self._type])
            self.precision = file_precision(source, said, precision)
        except BaseException:
            self._loop.close()
            raise
        self.batch_sizes = tuple(sorted(filter(None, self._functions))) or None
        if self._type == "float16" or self.batch_sizes:  # static forms add a mask that is small enough for fp16
            self.largest_norm = REDUCED_LARGEST_NORM

    @classmethod
    def missing(cls) -> str | None:
        """Say why it cannot run here, or None."""
        if sys.version_info < (3, 11):
            return f"coreai-core needs Python 3.11 or later, and this is {sys.version_info[0]}.{sys.version_info[1]}"
        return super().missing()

    @classmethod
    def load_framework(cls) -> Any:
        """Import the part that reads assets and return it."""
        cls.require()
        return extras.require("coreai", "backend coreai", "coreai.authoring.asset")

    @classmethod
    def devices(cls) -> list[str]:
        """Return what may be asked for here, the default first. Imports the framework."""
        cls.load_framework()
        return list(UNITS) if _on_system() else ["cpu"]

    @classmethod
    def describe(cls) -> str:
        """Return the version, and the devices or that it is the reference runtime. Imports the framework."""
        devices = ", ".join(cls.devices())
        return f"coreai-core {cls.version()}, {devices if _on_system() else f'{devices} by the slow {REFERENCE}'}"

    def run(self, contexts: Array) -> Array:
        """Return predictions `[b, D]`."""
        return self._predictions(self._outputs(contexts))

    def run_with_attention(self, contexts: Array) -> tuple[Array, Array]:
        """Return predictions `[b, D]` and attention `[b, T]`."""
        outputs = self._outputs(contexts)
        return self._predictions(outputs), np.array(outputs["attention"].numpy(), dtype=np.float32)

    def after_fork(self) -> None:
        """Say what to do instead; a new backend would wait for ever too."""
        self.refuse_forked()

    def close(self) -> None:
        """Let the functions go and end the thread."""
        self._functions = {}
        self._loop.close()

    def _outputs(self, contexts: Array) -> dict[str, Any]:
        function = self._functions[len(contexts) if self.batch_sizes else None]
        given = self._to_array(np.ascontiguousarray(contexts, dtype=self._type))  # copies
        return self._loop.run(function({"context": given}))

    def _predictions(self, outputs: dict[str, Any]) -> Array:
        found = np.array(outputs["prediction"].numpy(), dtype=np.float32)
        if self._type == "float16":
            found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return found


class _EventLoop:
    """An event loop in a thread of its own, for coroutines of any thread; it ends with its owner."""

    def __init__(self) -> None:
        import asyncio  # 30 ms, and no other backend needs it

        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="lvm-coreai", daemon=True)
        thread.start()
        self._loop, self._submit = loop, asyncio.run_coroutine_threadsafe
        self.close = weakref.finalize(self, _end, loop, thread)
        self.close.atexit = False  # the backend is closed at the exit, once nobody runs it any more

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return what `coroutine` returns, or raise what it raises."""
        return self._submit(coroutine, self._loop).result()


def _end(loop: Any, thread: threading.Thread) -> None:
    if thread.is_alive():  # it is not in a forked process
        loop.call_soon_threadsafe(loop.stop)
        if thread is not threading.current_thread():  # where the garbage collector may run too
            thread.join()
            loop.close()


async def _load_functions(asset: Any, source: Path, options: Any) -> dict[str, Any]:
    """Load every function; the compiled program is then in memory, and its temporary folder goes."""
    try:
        async with asset.load(source).executable(options) as model:
            return {name: model.load_function(name) for name in model.function_names}
    except (RuntimeError, KeyError, OSError) as error:
        raise ArtifactError(f"{source}: Core AI cannot load it: {one_line(error)}") from error


def _by_batch(functions: dict[str, Any], source: Path) -> tuple[dict[int | None, Any], str]:
    """Return functions by batch size, None for any size, and the type of their input."""
    found: dict[int | None, Any] = {}
    types = set()
    for name, function in functions.items():
        if "context" not in function.desc.input_names or "prediction" not in function.desc.output_names:
            raise ArtifactError(f"{source}: function {name} does not map context to prediction; export it again")
        wanted = function.desc.input_descriptor("context")
        types.add(wanted.dtype)
        found[wanted.shape[0] if (wanted.shape[0] or 0) > 0 else None] = function
    if len(types) != 1 or not types <= set(_TYPES) or (None in found and len(found) > 1):
        raise ArtifactError(
            f"{source}: takes {', '.join(map(str, found))} contexts of {', '.join(sorted(types))}; expected one "
            f"function for any batch size or functions for fixed ones, in {' or '.join(_TYPES)}"
        )
    return found, types.pop()


def _metadata(asset: Any) -> dict[str, Any]:
    """Return what its maker wrote into the asset; coreai-core's own stub calls it by the second name."""
    names = ("creator_defined_metadata", "custom_metadata")
    return next((getattr(asset.metadata, name) for name in names if hasattr(asset.metadata, name)), {})


def _check_asset(source: Path) -> None:
    """Compare the program with the hash beside it; Core AI aborts the process over a damaged one."""
    if source.suffix != ".aimodel" or not source.is_dir():
        raise ArtifactError(f"{source}: not there, or not a folder; expected a Core AI asset (.aimodel)")
    program, expected = read_plain(source / _PROGRAM, LARGEST_FILE), read_plain(source / _HASH, 32)
    if hashlib.sha256(program).digest() != expected:
        raise ArtifactError(f"{source / _PROGRAM}: differs from its hash in {_HASH}; export it again")


def _on_system() -> bool:
    """Return whether the system's Core AI runs the assets, and not the reference runtime in the package."""
    return bool(load("coreai.runtime").SpecializationOptions.is_supported())


def specialisation(device: str) -> Any:
    """Return Core AI's `SpecializationOptions` for a device of UNITS. macOS 27."""
    runtime = load("coreai.runtime")
    if UNITS[device] in ("default", "cpu_only"):
        return getattr(runtime.SpecializationOptions, UNITS[device])()
    kind = getattr(runtime.ComputeUnitKind, UNITS[device])()
    return runtime.SpecializationOptions.from_preferred_compute_unit_kind(kind)
