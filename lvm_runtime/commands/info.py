"""`lvm-runtime info ARTIFACT`: what is in an artifact, and whether it is whole."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

from lvm_runtime.artifact.folder import Artifact, resolve
from lvm_runtime.commands.console import fields, short, show
from lvm_runtime.commands.request_options import add_artifact
from lvm_runtime.commands.tables import aligned

DESCRIPTION = """Check every file of an artifact against its recorded size and SHA-256, and show what it holds: its
sizes, where it comes from, and its compiled forms with their drift and with what a search with them finds."""
SEARCH_COLUMNS = ("finds the same", "MRR")
_MOST_SHOWN = 16  # values of a list
_WIDTH = 100


def configure(parser: argparse.ArgumentParser) -> None:
    """Set up the command's parser."""
    parser.description = DESCRIPTION
    add_artifact(parser)


def run(options: argparse.Namespace) -> None:
    """Check the artifact and print what is in it."""
    show(describe_artifact(Artifact.load(resolve(options.artifact))))


def describe_artifact(artifact: Artifact) -> str:
    """Return the contents of a checked artifact: sizes, provenance, and its files with their measured drift."""
    manifest, config = artifact.manifest, artifact.config
    sizes = fields(config.to_dict().items())
    lines = [f"{artifact.path}: {config.architecture} ({sizes})", f"made {manifest.created}"]
    for section, values in manifest.provenance.items():
        lines += _section(section, values)
    lines = [line.replace("\n", "\\n") for line in lines]  # or a value could pass for a line of ours
    searched = any("search" in c.details for c in manifest.compiled)
    header = ("file", "format", "precision", "form", "batch", "size", "drift", *SEARCH_COLUMNS[: 2 * searched])
    size = _megabytes(manifest.weights.bytes)
    rows = [(manifest.weights.path, "weights", "fp32", "training", "any", size, "0", *("", "")[: 2 * searched])]
    for c in manifest.compiled:
        batch = "any" if c.batch_sizes is None else "/".join(map(str, c.batch_sizes))
        finds = _search(c.details.get("search"))[: 2 * searched]
        size = _megabytes(c.file.bytes)
        rows.append((c.file.path, c.format, c.precision, c.form, batch, size, f"{c.drift:.1e}", *finds))
    lines += ["", aligned(header, rows), "", "every file has its recorded size and SHA-256"]
    return "\n".join(lines)


def _section(name: str, values: Any) -> list[str]:
    """Return a free value as a heading and an item a line, broken after commas where it is long."""
    if not isinstance(values, dict):
        return [f"{name}: {_free(values)}"]
    lines = [f"{name}:"]
    for item in (f"  {key} {_free(value, 1)}" for key, value in values.items()):
        kept = item.replace(" ", "\0").replace(",\0", ", ")  # so that a name stays with its value
        broken = textwrap.wrap(kept, _WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
        lines += [line.replace("\0", " ") for line in broken]
    return lines


def _free(value: Any, depth: int = 2) -> str:
    """Return a free value as text, numbers to four digits, with … for long lists and dicts deeper than `depth`."""
    if isinstance(value, dict):
        if value and not depth:
            return "{…}"
        return f"{{{', '.join(f'{name} {_free(one, depth - 1)}' for name, one in value.items())}}}"
    if isinstance(value, list) and len(value) > _MOST_SHOWN:
        return "[…]"
    if isinstance(value, list):
        return f"[{', '.join(_free(one, depth) for one in value)}]"
    return short(value)


def _search(found: Any) -> tuple[str, str]:
    """Return the share of the training form's first ten that a form finds, and its MRR less the training form's."""
    try:
        return f"{found['overlap']:.4f} of {found['k']}", f"{found['mrr_difference']:+.4f}"
    except (TypeError, KeyError, ValueError):  # `details` are free values: none, or another maker's
        return "not measured", ""


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB"
