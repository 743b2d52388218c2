"""`lvm-runtime export triton --model amn`, or `python -m export.triton` in a checkout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lvm_runtime.artifact.folder import Artifact, resolve
from lvm_runtime.commands import console
from lvm_runtime.commands.parser import Parser

from .repository import KINDS, write_repository

DESCRIPTION = """Write a model repository for NVIDIA Triton: the artifact behind the Python backend, which needs
lvm_runtime in Triton's Python, and its ONNX file behind the ONNX backend."""


def command(argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Parse the command line and write the repository."""
    parser = Parser(prog=prog or console.program(), description=DESCRIPTION)
    add = parser.add_argument
    add("--model", required=True, metavar="NAME|PATH", help="an artifact's folder, or NAME for artifacts/NAME")
    # not `triton`: where Triton's compiler is not installed, PyTorch would import such a folder for it
    usual = Path("model_repository")
    add("--out", type=Path, default=usual, metavar="FOLDER", help="the repository (default: %(default)s)")
    add("--name", help="the model's name in Triton (default: its architecture)")
    add("--max-batch", type=int, default=64, metavar="N", help="contexts of a batch (default: %(default)s)")
    add("--max-delay-ms", type=float, default=0.0, metavar="MS", help="wait for a fuller batch (default: none)")
    add("--instances", type=int, default=1, metavar="N", help="processes, each with a Predictor (default: 1)")
    for name in KINDS:
        add(f"--{name.replace('_', '-')}", help=f"the Predictor's {name}")
    chosen = parser.parse_args(argv)
    folders = write_repository(
        Artifact.load(resolve(chosen.model)),
        chosen.out,
        name=chosen.name,
        max_batch=chosen.max_batch,
        max_delay_ms=chosen.max_delay_ms,
        instances=chosen.instances,
        options={name: value for name in KINDS if (value := getattr(chosen, name)) is not None},
    )
    for folder in folders:
        console.show(folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(console.run(command))
