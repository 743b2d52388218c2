"""`python -m train.all`: train the four architectures in turn under one config, then compare them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lvm_runtime.artifact.config import ARCHITECTURES
from lvm_runtime.artifact.folder import DEFAULT_ROOT
from lvm_runtime.commands import console
from lvm_runtime.commands.parser import Parser
from lvm_runtime.system import extras

from .__main__ import add_shared_arguments, options_from, require_places


def command(argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Parse the command line, train each model and write the comparison."""
    parser = Parser(
        prog=prog or console.program(),
        description="Train the four architectures in turn under one config, then compare them. With --resume, those "
        "that have no checkpoint yet begin.",
    )
    parser.add_argument("--out", type=Path, default=DEFAULT_ROOT, help="folder of the artifacts")
    parser.add_argument("--report", type=Path, help="folder of the comparison (default: OUT/comparison)")
    parser.add_argument("--models", nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES, help="default: all")
    add_shared_arguments(parser)
    arguments = parser.parse_args(argv)
    # every config is checked before the first model spends its time
    runs = [options_from(arguments, model=name, out=arguments.out / name) for name in arguments.models]
    extras.require("train", "training", "torch", "safetensors", "matplotlib")
    from .checkpoint import FILE
    from .report.compare import compare
    from .run import require_start, train

    if arguments.resume:
        begun = [(options.run_path / FILE).exists() for options in runs]
        if any(begun):  # the others come after the one that was stopped
            runs = [replace(options, resume=resume) for options, resume in zip(runs, begun, strict=True)]
    require_places(arguments, *runs)
    for options in runs:
        require_start(options)
    result = None
    for options in runs:
        console.show(f"== {options.model}")
        result = train(options, console.show, earlier=result)
    console.show(compare([options.run_path for options in runs], arguments.report or arguments.out / "comparison"))
    return 0


if __name__ == "__main__":
    raise SystemExit(console.run(command))
