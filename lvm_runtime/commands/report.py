"""Artifacts and machines in words, for `lvm info` and `lvm doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata

from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends.registry import BACKENDS, BackendInfo
from lvm_runtime.commands.tables import aligned
from lvm_runtime.selection.candidates import Refusal
from lvm_runtime.selection.measurements import BATCHES, Measurement
from lvm_runtime.selection.tuning import fastest
from lvm_runtime.system import machine


def describe_artifact(artifact: Artifact) -> str:
    """Return the contents of a checked artifact: sizes, provenance, and its files with their measured drift."""
    manifest, config = artifact.manifest, artifact.config
    sizes = ", ".join(f"{name} {value}" for name, value in config.to_dict().items())
    lines = [f"{artifact.path}: {config.architecture} ({sizes})", f"made {manifest.created}"]
    for section, values in manifest.provenance.items():
        shown = ", ".join(f"{k} {_short(v)}" for k, v in values.items()) if isinstance(values, dict) else _short(values)
        lines.append(f"{section}: {shown}")
    header = ("file", "format", "precision", "form", "batch", "size", "drift")
    rows = [(manifest.weights.path, "weights", "fp32", "training", "any", _megabytes(manifest.weights.bytes), "0")]
    for c in manifest.compiled:
        batch = "any" if c.batch_sizes is None else "/".join(map(str, c.batch_sizes))
        rows.append((c.file.path, c.format, c.precision, c.form, batch, _megabytes(c.file.bytes), f"{c.drift:.1e}"))
    lines += ["", aligned(header, rows), "", "every file has its recorded size and SHA-256"]
    return "\n".join(lines)


def describe_machine() -> str:
    """Return which backends can run on this machine, with versions and devices, and what the others need."""
    here = machine.describe()
    rows = [(name, *_backend_state(info)) for name, info in BACKENDS.items()]
    system = f"{here['system']} {here['architecture']}, Python {here['python']}"
    return f"{machine.line(here)}\n{system}\n\n{aligned(('backend', 'works', 'with'), rows)}"


def describe_tuning(
    measured: Sequence[Measurement], refused: Sequence[Refusal], typical_batch: int | None = None
) -> str:
    """Return the table that `lvm tune` prints: predictions per second by form, and which forms will be used."""
    header, rows = ("form", "device", "drift", *(f"batch {batch}" for batch in BATCHES)), []
    usable = [m for m in measured if m.problem is None]
    picks = fastest(usable, typical_batch) if usable else ()
    for m in usable:
        rates = [
            f"{batch / seconds:,.0f}{' *' * (i < len(picks) and picks[i] is m)}"
            for i, (batch, seconds) in enumerate(zip(BATCHES, m.seconds, strict=True))
        ]
        rows.append((f"{m.backend} {m.precision} ({m.file})", m.device, f"{m.drift:.1e}", *rates))
    legend = "predictions per second; * serves that batch size"
    lines = [legend, "", aligned(header, rows)] if usable else ["nothing runs here"]
    lines += [f"ruled out: {m.backend} {m.precision} ({m.file}): {m.problem}" for m in measured if m.problem]
    return "\n".join([*lines, *(f"ruled out: {refusal}" for refusal in refused)])


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


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
