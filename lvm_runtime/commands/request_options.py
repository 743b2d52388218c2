"""The options that say which form of an artifact runs, which several commands share."""

from __future__ import annotations

import argparse

from lvm_runtime.backends.registry import BACKENDS
from lvm_runtime.request import AUTO, DEVICES, Request


def add_artifact(parser: argparse.ArgumentParser) -> None:
    """Add the argument that names an artifact."""
    parser.add_argument(
        "artifact", metavar="ARTIFACT", help="an artifact's folder, or an architecture's name for ./artifacts/NAME"
    )


def add_request_options(parser: argparse.ArgumentParser, max_drift: float | None = None) -> None:
    """Add the options of a Request; `max_drift` is the default of `--max-drift`."""
    add = parser.add_argument_group("which form runs").add_argument
    add("--backend", default=AUTO, help=f"auto, or one of {', '.join(BACKENDS)} (default: auto)")
    add("--device", default=AUTO, help=f"auto, or one of {', '.join(DEVICES)}, as the backend has it (default: auto)")
    add("--precision", help="fp32, fp16, bf16 or int8 (default: any within --max-drift)")
    shown = "1e-6, full precision" if max_drift is None else f"{max_drift:g}"
    add(
        "--max-drift",
        type=float,
        default=max_drift,
        help=f"largest 1 - cosine to the model's answers (default: {shown})",
    )
    add("--threads", type=int, help="threads for one run (default: all usable CPUs)")
    add("--typical-batch", type=int, metavar="B", help="the batch size to be fastest at (default: weigh all)")


def request_from(options: argparse.Namespace) -> Request:
    """Return the Request that the parsed options make."""
    return Request(
        options.backend,
        options.device,
        options.precision,
        options.max_drift,
        options.threads,
        options.typical_batch,
    )
