"""`lvm-runtime export mac-report`, or `python -m export.mac_report` in a checkout."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from lvm_runtime.artifact.config import ARCHITECTURES
from lvm_runtime.commands import console
from lvm_runtime.commands.parser import Parser
from lvm_runtime.coreml.package import require_macos
from lvm_runtime.system import atomic, extras

DESCRIPTION = """Measure what cannot be measured anywhere else and write it as one Markdown file to send in, with the
figures as JSON beside it: Core ML's own answers, where Core ML and Core AI place each operation, drift, latency,
throughput and energy of both by device and batch size, the same of onnxruntime, the native engine, MLX and PyTorch, how
exact a device's GELU is, and one training step on the CPU and on MPS. What is missing is said in its place."""
EPILOG = """Energy needs root: run `sudo -v` first. `python -m benchmarks.report` reads the JSON beside those of other
machines."""


def command(argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Parse the command line, measure and write the report."""
    parser = Parser(prog=prog or console.program(), description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--out", type=Path, default=Path("mac-report.md"), help="default: mac-report.md")
    parser.add_argument("--dim", type=int, default=768, help="vector size D (default: 768)")
    parser.add_argument("--models", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES), help="default: all")
    arguments = parser.parse_args(argv)
    require_macos("the Mac report", least=15)
    atomic.require_writable(arguments.out)
    extras.require("export", "the Mac report", "torch", "safetensors", "coremltools")
    from .record import to_json
    from .report import write_report

    with tempfile.TemporaryDirectory() as folder:
        text, entries = write_report(Path(folder), arguments.models, arguments.dim)
    figures = arguments.out.with_suffix(".json")
    atomic.write_bytes(arguments.out, text.encode())
    atomic.write_bytes(figures, to_json(entries).encode())
    console.show(f"{arguments.out}, {figures}: written; please send them in")
    return 0


if __name__ == "__main__":
    raise SystemExit(console.run(command))
