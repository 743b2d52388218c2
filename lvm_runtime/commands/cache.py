"""`lvm-runtime cache`: what is kept for this user, compiled Core ML models and measured speeds."""

from __future__ import annotations

import argparse

from lvm_runtime.commands.console import note, show
from lvm_runtime.coreml import cache as coreml_cache
from lvm_runtime.errors import counted
from lvm_runtime.selection import measurements

DESCRIPTION = """List what is kept in the user's cache folder ($LVM_CACHE, or lvm_runtime in the system's folder for
caches): Core ML models compiled for this machine, and the speeds that Predictors and `lvm-runtime tune` measured."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Set up the command's parser."""
    parser.description = DESCRIPTION
    parser.add_argument("--clear", action="store_true", help="remove all of it; it is made again when needed")


def run(options: argparse.Namespace) -> None:
    """List the cache, or clear it first."""
    if options.clear:
        compiled, files = coreml_cache.clear(), measurements.clear()
        size = sum(entry.bytes for entry in compiled) / 1e6
        models, kept = counted(len(compiled), "compiled model"), counted(len(files), "measurement")
        note(f"removed {models}, {size:.1f} MB, {kept}")
    show(describe_cache())


def describe_cache() -> str:
    """Return a line per compiled model and per file of measurements, and the totals."""
    entries = coreml_cache.list_entries()
    lines = [f"{entry.bytes / 1e6:8.1f} MB  {entry.created}  {entry.source}" for entry in entries]
    total = sum(entry.bytes for entry in entries) / 1e6
    models = counted(len(entries), "compiled Core ML model")
    lines.append(f"{coreml_cache.folder() or 'no cache folder'}: {models}, {total:.1f} MB")
    kept = measurements.list_kept()
    lines += [f"  {file.parent.name}/{file.name}  {line}" for file, line in kept]
    lines.append(f"{measurements.folder() or 'no cache folder'}: {counted(len(kept), 'file')} of measured speeds")
    return "\n".join(lines)
