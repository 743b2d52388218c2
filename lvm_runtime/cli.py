"""The `lvm` command.

lvm info ARTIFACT     what is in an artifact, and whether it is whole
lvm doctor            which backends work on this machine, and what the others need
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lvm_runtime import console


def _info(options: argparse.Namespace) -> None:
    from lvm_runtime.artifact import Artifact, resolve
    from lvm_runtime.report import describe_artifact

    print(describe_artifact(Artifact.load(resolve(options.artifact))))


def _doctor(options: argparse.Namespace) -> None:
    from lvm_runtime.report import describe_machine

    print(describe_machine())


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the `lvm` command."""
    parser = argparse.ArgumentParser(
        prog="lvm", description="Serve latent vector models: predict the next vector of a document."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    artifact_help = "an artifact's folder, or an architecture's name for ./artifacts/NAME"

    info = commands.add_parser("info", help="show what is in an artifact, and check that it is whole")
    info.add_argument("artifact", metavar="ARTIFACT", help=artifact_help)
    info.set_defaults(action=_info)

    doctor = commands.add_parser("doctor", help="show which backends work on this machine, and what the others need")
    doctor.set_defaults(action=_doctor)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the `lvm` command and return its exit status."""
    options = build_parser().parse_args(arguments)
    return console.run(lambda: options.action(options))


if __name__ == "__main__":
    sys.exit(main())
