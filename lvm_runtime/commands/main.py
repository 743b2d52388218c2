"""The `lvm-runtime` command, which is `python -m lvm_runtime` as well.

Each command is a file beside this one with `configure(parser)` and `run(options)`. It is imported when it is asked for,
so that `--help` and `info` wait for nothing that they do not need.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lvm_runtime import __version__
from lvm_runtime.commands import console
from lvm_runtime.commands.parser import Parser
from lvm_runtime.commands.train_and_export import TOOLS, find_tool, run_tool
from lvm_runtime.system.imports import load

COMMANDS = {
    "embed": "make a corpus from text files",
    "index": "make the vectors of a corpus searchable",
    "next": "find the chunks that are likely to come next in a text",
    "predict": "predict for a file, however large",
    "serve": "predict over HTTP and gRPC, by the Open Inference Protocol",
    "tune": "measure which form of an artifact is fastest here",
    "info": "show what is in an artifact, and check that it is whole",
    "explain": "show which forms of an artifact would serve here, and why",
    "doctor": "show which backends work on this machine, and what the others need",
    "cache": "list what is kept for this user, or remove it",
    "placement": "on a Mac: show on which device Core ML means to run each operation of a package",
}


def build_parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of `lvm-runtime`, with the options of the command `chosen`."""
    parser = Parser(
        prog=console.program(),
        description="Serve latent vector models: predict the next vector of a document.",
        epilog="COMMAND --help shows the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"lvm_runtime {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, line) in TOOLS.items():
        if line:
            commands.add_parser(name, help=line)
    for name, line in COMMANDS.items():
        command = commands.add_parser(name, help=line)
        if name == chosen:
            load(f"lvm_runtime.commands.{name}").configure(command)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the `lvm-runtime` command and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return console.run(lambda: _dispatch(given))


def _dispatch(given: list[str]) -> int | None:
    if tool := find_tool(given):
        return run_tool(tool, given[len(tool.split()) :], console.program())
    chosen = given[0] if given and given[0] in COMMANDS else None
    options = build_parser(chosen).parse_args(given)
    result: int | None = load(f"lvm_runtime.commands.{options.command}").run(options)
    return result
