"""`lvm-runtime placement PACKAGE`: on a Mac, on which device Core ML means to run each operation."""

from __future__ import annotations

import argparse
from pathlib import Path

from lvm_runtime.artifact.folder import Artifact, resolve
from lvm_runtime.commands.console import show
from lvm_runtime.coreml.package import UNITS, compile_package, import_coremltools, read_package, require_macos
from lvm_runtime.coreml.placement import read_placements, summarise
from lvm_runtime.errors import InvalidInput

DESCRIPTION = """Show what Core ML's compute plan says: each device's share of the estimated cost, and, where less than
99 % is on the device that was asked for, which operations are elsewhere and why."""
LEAST_MACOS = 14


def configure(parser: argparse.ArgumentParser) -> None:
    """Set up the command's parser."""
    parser.description = DESCRIPTION
    parser.add_argument("package", metavar="PACKAGE", type=Path, help="an .mlpackage, or an artifact that holds some")
    parser.add_argument("--device", choices=("ane", "gpu", "cpu", "all"), help="default: the one it was exported for")
    parser.add_argument("--operations", action="store_true", help="list every operation")


def run(options: argparse.Namespace) -> None:
    """Print the placement of each package."""
    require_macos("lvm-runtime placement", least=LEAST_MACOS)
    for package in packages_of(options.package):
        show(describe_placement(package, options.device, every=options.operations))


def describe_placement(package: Path, device: str | None, *, every: bool = False) -> str:
    """Return the report on where Core ML means to run each function of `package`. macOS 14.4 and later."""
    require_macos("lvm-runtime placement", least=LEAST_MACOS)
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
    artifact = Artifact.load(resolve(str(path)))
    if packages := [artifact.file(compiled) for compiled in artifact.find("coreml")]:
        return packages
    raise InvalidInput(f"{artifact.path} has no Core ML package; make one: lvm-runtime export coreml --model {path}")
