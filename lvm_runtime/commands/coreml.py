"""`lvm explain PACKAGE` and `lvm cache`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from lvm_runtime.coreml import cache as coreml_cache
from lvm_runtime.coreml.plan import read_placements, summarise
from lvm_runtime.errors import InvalidInput


def add_commands(commands: Any) -> None:
    """Add both commands to the subparsers of the `lvm` command."""
    explain = commands.add_parser(
        "explain",
        help="on a Mac: show which device Core ML means to run each operation of a package on",
        description="Show what Core ML's compute plan says: each device's share of the estimated cost, and, where less "
        "than 99 % is on the device that was asked for, which operations are elsewhere and why.",
    )
    explain.add_argument("package", metavar="PACKAGE", type=Path, help="an .mlpackage, or an artifact that holds some")
    explain.add_argument("--device", choices=("ane", "gpu", "cpu", "all"), help="default: the one it was exported for")
    explain.add_argument("--operations", action="store_true", help="list every operation")
    explain.set_defaults(action=_explain)

    cache = commands.add_parser("cache", help="list the compiled Core ML models that are kept, or remove them")
    cache.add_argument("--clear", action="store_true", help="remove them; they are made again when needed")
    cache.set_defaults(action=_cache)


def explain_package(package: Path, device: str | None = None, *, every: bool = False) -> str:
    """Return the report on where Core ML means to run each function of `package`. macOS 14.4 and later."""
    from lvm_runtime.coreml.package import UNITS, compile_package, import_coremltools, read_package, require_macos

    require_macos("lvm explain", least=14)
    read = read_package(package)
    asked = device or read.device
    coremltools = import_coremltools()
    from coremltools.models.compute_plan import MLComputePlan

    units = coremltools.ComputeUnit[UNITS[asked]]
    plan = MLComputePlan.load_from_path(path=str(compile_package(package)), compute_units=units)
    lines = [f"{package} asked to run on {asked}"]
    for function in dict.fromkeys(read.functions.values()):
        placements = read_placements(plan, function)
        lines.append(summarise(function, placements, asked))
        if every:
            lines += [f"      {p.preferred:4s} {p.cost:7.2%} {p.type} {p.name}" for p in placements]
    return "\n".join(lines)


def packages_of(path: Path) -> list[Path]:
    """Return the package at `path`, or those of the artifact there."""
    if path.suffix == ".mlpackage":
        return [path]
    from lvm_runtime.artifact.folder import Artifact, resolve

    artifact = Artifact.load(resolve(str(path)))
    if packages := [artifact.file(compiled) for compiled in artifact.find("coreml")]:
        return packages
    raise InvalidInput(f"{artifact.path} has no Core ML package; make one: python -m export.coreml --model {path}")


def describe_cache() -> str:
    """Return a line per compiled model, and the total."""
    entries = coreml_cache.list_entries()
    lines = [f"{entry.bytes / 1e6:8.1f} MB  {entry.created}  {entry.source}" for entry in entries]
    total = sum(entry.bytes for entry in entries) / 1e6
    return "\n".join(
        [
            *lines,
            f"{coreml_cache.folder() or 'no cache folder'}: {len(entries)} compiled Core ML models, {total:.1f} MB",
        ]
    )


def _explain(options: argparse.Namespace) -> None:
    from lvm_runtime.coreml.package import require_macos

    require_macos("lvm explain", least=14)
    for package in packages_of(options.package):
        print(explain_package(package, options.device, every=options.operations))


def _cache(options: argparse.Namespace) -> None:
    if options.clear:
        removed = coreml_cache.clear()
        print(f"removed {len(removed)} compiled models, {sum(e.bytes for e in removed) / 1e6:.1f} MB", file=sys.stderr)
    print(describe_cache())
