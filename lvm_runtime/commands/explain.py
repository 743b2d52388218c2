"""`lvm-runtime explain ARTIFACT`: which forms would serve here, with which drift, and what was ruled out."""

from __future__ import annotations

import argparse

from lvm_runtime.commands.console import show
from lvm_runtime.commands.request_options import add_artifact, add_request_options, request_from
from lvm_runtime.predictor import Predictor

DESCRIPTION = """Open the artifact as a Predictor with the same options would, and print what Predictor.explain() says:
what runs where, with which measured drift, and what was ruled out and why."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Set up the command's parser."""
    parser.description = DESCRIPTION
    add_artifact(parser)
    add_request_options(parser)


def run(options: argparse.Namespace) -> None:
    """Open a Predictor and print its explanation."""
    with Predictor.from_request(options.artifact, request_from(options)) as predictor:
        show(predictor.explain())
