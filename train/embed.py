"""`python -m train.embed`, the older name of `lvm-runtime embed`."""

from __future__ import annotations

from collections.abc import Sequence

from lvm_runtime.commands import console, embed
from lvm_runtime.commands.parser import Parser


def command(argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Parse the command line and write a corpus."""
    parser = Parser(prog=prog or console.program())
    embed.configure(parser)
    embed.run(parser.parse_args(argv))
    return 0


if __name__ == "__main__":
    raise SystemExit(console.run(command))
