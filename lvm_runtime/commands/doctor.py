"""`lvm-runtime doctor`: which backends work on this machine, and what the others need."""

from __future__ import annotations

import argparse

from lvm_runtime.backends.registry import BACKENDS, backend_class
from lvm_runtime.commands.console import show
from lvm_runtime.commands.tables import aligned
from lvm_runtime.errors import BackendUnavailable
from lvm_runtime.system import machine

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
    here = machine.describe()
    system = f"{here['system']} {here['architecture']}, Python {here['python']}"
    rows = [(name, *_backend_state(name)) for name in BACKENDS]
    return f"{machine.line(here)}\n{system}\n\n{aligned(('backend', 'works', 'with'), rows)}"


def _backend_state(name: str) -> tuple[str, str]:
    cls = backend_class(name)
    try:
        return "yes", cls.describe()
    except BackendUnavailable as error:
        return "no", str(error).removeprefix(f"backend {name} is not available: ")
