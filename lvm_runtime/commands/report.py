"""Artifacts and machines in words, for `lvm info` and `lvm doctor`."""

from __future__ import annotations

import platform
from collections.abc import Sequence

from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends.registry import BACKENDS, backend_class
from lvm_runtime.errors import BackendUnavailable
from lvm_runtime.selection.candidates import Refusal
from lvm_runtime.selection.measurements import BATCHES, Measurement
from lvm_runtime.selection.tuning import fastest
from lvm_runtime.system.cpus import usable_cpus


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return `rows` (the first is the head) as text with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def describe_artifact(artifact: Artifact) -> str:
    """Return the contents of a checked artifact: sizes, provenance, and its files with their measured drift."""
    manifest, config = artifact.manifest, artifact.config
    sizes = ", ".join(f"{name} {value}" for name, value in config.to_dict().items())
    lines = [f"{artifact.path}: {config.architecture} ({sizes})", f"made {manifest.created}"]
    for section, values in manifest.provenance.items():
        shown = ", ".join(f"{k} {_short(v)}" for k, v in values.items()) if isinstance(values, dict) else _short(values)
        lines.append(f"{section}: {shown}")
    rows = [("file", "format", "precision", "form", "batch", "size", "drift")]
    rows.append((manifest.weights.path, "weights", "fp32", "training", "any", _megabytes(manifest.weights.bytes), "0"))
    for c in manifest.compiled:
        batch = "any" if c.batch_sizes is None else "/".join(map(str, c.batch_sizes))
        rows.append((c.file.path, c.format, c.precision, c.form, batch, _megabytes(c.file.bytes), f"{c.drift:.1e}"))
    lines += ["", table(rows), "", "every file has its recorded size and SHA-256"]
    return "\n".join(lines)


def describe_machine() -> str:
    """Return which backends can run on this machine, with versions and devices, and what the others need."""
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    rows = [("backend", "works", "with")]
    rows += [(name, *_backend_state(name)) for name in BACKENDS]
    return f"{system}, {usable_cpus()} usable CPUs\n\n{table(rows)}"


def describe_tuning(
    measured: Sequence[Measurement], refused: Sequence[Refusal], typical_batch: int | None = None
) -> str:
    """Return the table that `lvm tune` prints: predictions per second by form, and which of them will serve."""
    rows = [("form", "device", "drift", *(f"batch {batch}" for batch in BATCHES))]
    usable = [m for m in measured if m.problem is None]
    best = fastest(usable, typical_batch) if usable else None
    for m in usable:
        rates = [f"{batch / seconds:,.0f}" for batch, seconds in zip(BATCHES, m.seconds, strict=True)]
        form = f"{m.backend} {m.precision} ({m.file}){' *' * (m is best)}"
        rows.append((form, m.device, f"{m.drift:.1e}", *rates))
    lines = ["predictions per second; * serves", "", table(rows)] if usable else ["nothing runs here"]
    lines += [f"ruled out: {m.backend} {m.precision} ({m.file}): {m.problem}" for m in measured if m.problem]
    return "\n".join([*lines, *(f"ruled out: {refusal}" for refusal in refused)])


def _backend_state(name: str) -> tuple[str, str]:
    cls = backend_class(name)
    try:
        devices = cls.devices()
    except BackendUnavailable as error:
        return "no", str(error).removeprefix(f"backend {name} is not available: ")
    return "yes", f"{cls.framework} {cls.version()}, {', '.join(devices)}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
