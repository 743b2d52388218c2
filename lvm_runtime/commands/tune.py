"""`lvm-runtime tune ARTIFACT`: measure the forms of an artifact here, for later Predictors."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lvm_runtime.commands.console import note, show
from lvm_runtime.commands.request_options import add_artifact, add_request_options, request_from
from lvm_runtime.commands.tables import aligned
from lvm_runtime.errors import BackendUnavailable
from lvm_runtime.selection.candidates import Refusal
from lvm_runtime.selection.measurements import BATCHES, Measurement
from lvm_runtime.selection.tuning import fastest, tune

DESCRIPTION = """Time every form of the artifact that this machine can run and that passes its known-answer test. The
result is kept in the user's cache folder, and Predictors on this machine choose by it from then on."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Set up the command's parser."""
    parser.description = DESCRIPTION
    add_artifact(parser)
    add_request_options(parser, max_drift=1e-3)


def run(options: argparse.Namespace) -> None:
    """Measure and print the table."""
    measured, refused = tune(options.artifact, request_from(options), report=note)
    show(describe_tuning(measured, refused, options.max_drift, options.typical_batch))
    if all(m.problem for m in measured):
        raise BackendUnavailable(
            f"{options.artifact}: no form of it can serve this request here, for the reasons above"
        )


def describe_tuning(
    measured: Sequence[Measurement], refused: Sequence[Refusal], max_drift: float, typical_batch: int | None
) -> str:
    """Return a table of predictions per second by form, with a mark at the one that will serve."""
    header, rows = ("form", "device", "drift", *(f"batch {batch}" for batch in BATCHES)), []
    usable = [m for m in measured if m.problem is None]
    best = fastest(usable, typical_batch) if usable else None
    for m in usable:
        rates = [f"{batch / seconds:,.0f}" for batch, seconds in zip(BATCHES, m.seconds, strict=True)]
        form = f"{m.backend} {m.precision} ({m.file}){' *' * (m is best)}"
        rows.append((form, m.device, f"{m.drift:.1e}", *rates))
    head = f"predictions per second; * serves where the drift may be {max_drift:g}"
    lines = [head, "", aligned(header, rows)] if usable else ["nothing runs here"]
    lines += [f"ruled out: {m.backend} {m.precision} ({m.file}): {m.problem}" for m in measured if m.problem]
    return "\n".join([*lines, *(f"ruled out: {refusal}" for refusal in refused)])
