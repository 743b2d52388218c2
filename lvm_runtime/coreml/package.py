"""A Core ML package as the runtime sees it: its functions, and Core ML's own tools on macOS.

coremltools is imported here only where it can run a model.
"""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lvm_runtime.coreml import cache as coreml_cache
from lvm_runtime.errors import ArtifactError, BackendUnavailable, one_line
from lvm_runtime.system import extras

SPEC = PurePosixPath("Data/com.apple.CoreML/model.mlmodel")
FUNCTIONS = "lvm.functions"
COMPUTE_UNITS = "lvm.compute_units"
PRECISION = "lvm.precision"
UNITS = {"ane": "CPU_AND_NE", "gpu": "CPU_AND_GPU", "cpu": "CPU_ONLY", "all": "ALL"}
"""Device to coremltools' compute unit; the CPU is part of each, as Core ML always may use it."""
MULTIFUNCTION_MACOS = 15
SMALLEST_MACOS = 13


@dataclass(frozen=True, slots=True)
class Package:
    """What a package says of itself: batch size to function name, smallest first, the device it was made for, and the
    precision that its manifest should list, None in an older package."""

    functions: dict[int, str]
    device: str
    precision: str | None = None

    @property
    def multifunction(self) -> bool:
        """Whether each batch size has a function of its own."""
        return len(set(self.functions.values())) > 1 or set(self.functions.values()) != {"main"}


def require_macos(what: str, *, least: int = SMALLEST_MACOS) -> None:
    """Raise BackendUnavailable unless this is macOS, of version `least` or later."""
    system = platform.system()
    if system != "Darwin":
        raise BackendUnavailable(
            f"{what} runs on macOS only, and this is {system}; "
            "here, check a package with: lvm-runtime export mil-reference PACKAGE --input CONTEXTS.npy"
        )
    version = platform.mac_ver()[0]
    if int(version.split(".")[0] or 0) < least:
        raise BackendUnavailable(
            f"{what} needs macOS {least} or later, and this is {version}; "
            "export for it with: lvm-runtime export coreml --shapes enumerated --target macOS13"
        )


def import_coremltools() -> Any:
    """Import coremltools, or raise BackendUnavailable with the pip command."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns about versions of libraries that are not used here
    try:
        return extras.require("coreml", "Core ML", "coremltools")
    finally:
        logger.setLevel(level)


def load_spec(path: Path) -> Any:
    """Return the specification in the package at `path`, as coremltools reads it; ArtifactError for what is none."""
    if not path.is_dir():
        raise ArtifactError(f"{path}: not there, or not a folder; expected a Core ML package (.mlpackage)")
    coremltools = import_coremltools()
    try:
        return coremltools.utils.load_spec(str(path))
    except Exception as error:  # coremltools raises bare Exceptions and protobuf's own errors
        raise ArtifactError(f"{path}: not a Core ML package ({one_line(error)})") from error


def read_package(path: Path) -> Package:
    """Read what the package at `path` says of itself. Raises ArtifactError for one that this project did not make."""
    metadata = load_spec(path).description.metadata.userDefined
    device = str(metadata.get(COMPUTE_UNITS) or "ane")
    return Package(read_functions(metadata, path), device, metadata.get(PRECISION))


def read_functions(metadata: Mapping[str, str], source: Path) -> dict[int, str]:
    """Return batch size to function name from a package's user-defined metadata, smallest size first.

    Raises ArtifactError, with `source`, for a package that says nothing of the kind.
    """
    text = metadata.get(FUNCTIONS)
    try:
        return {size: str(name) for size, name in sorted((int(s), n) for s, n in json.loads(text or "").items())}
    except (ValueError, AttributeError) as error:
        raise ArtifactError(
            f"{source}: its metadata has no usable {FUNCTIONS!r} (found {text!r}); "
            "export it again with: lvm-runtime export coreml"
        ) from error


def compile_package(path: Path) -> Path:
    """Compile a package into the cache, if it is not there, and return the compiled model. macOS only."""
    coremltools = import_coremltools()

    def compile(package: Path, destination: Path) -> None:
        try:
            coremltools.models.utils.compile_model(str(package), str(destination))
        except RuntimeError as error:  # what the native layer raises
            raise ArtifactError(f"{package}: Core ML cannot compile it: {one_line(error)}") from error

    versions = f"macOS {platform.mac_ver()[0]} {platform.machine()} coremltools {coremltools.__version__}"
    return coreml_cache.compiled_model(path, compile, versions=versions)
