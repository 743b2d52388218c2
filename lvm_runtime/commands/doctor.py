"""`lvm-runtime doctor`: which backends work on this machine, and what the others need."""

from __future__ import annotations

import argparse
import platform
from importlib import metadata

from lvm_runtime.backends.registry import BACKENDS, BackendInfo
from lvm_runtime.commands.console import show, table
from lvm_runtime.system.cpus import usable_cpus

DESCRIPTION = """Import every framework that is installed here and show which backends can run, on which devices, with
how many CPUs, and what to install for the others."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Set up the command's parser."""
    parser.description = DESCRIPTION


def run(options: argparse.Namespace) -> None:
    """Print what works here."""
    show(describe_machine())


def describe_machine() -> str:
    """Return which backends can run on this machine, with versions and devices, and what the others need."""
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    rows = [("backend", "works", "with")]
    rows += [(name, *_backend_state(info)) for name, info in BACKENDS.items()]
    return f"{system}, {usable_cpus()} usable CPUs\n\n{table(rows)}"


def _backend_state(info: BackendInfo) -> tuple[str, str]:
    if problem := info.missing():
        return "no", problem
    return "yes", f"{info.framework} {metadata.version(info.framework)}, {', '.join(_devices(info.framework))}"


def _devices(framework: str) -> list[str]:
    """Return the devices that its backends can run on here, after really importing it."""
    if framework == "onnxruntime":
        from lvm_runtime.backends.onnx import onnx_devices

        return onnx_devices()
    if framework == "torch":
        import torch

        return ["cpu", *(n for n, m in (("cuda", torch.cuda), ("mps", torch.backends.mps)) if m.is_available())]
    if framework == "openvino":
        import openvino  # noqa: F401 (that it can be imported is what is asked)

        return ["cpu"]
    return ["cpu", "gpu", "ane"]
