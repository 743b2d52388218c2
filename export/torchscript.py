"""Export to TorchScript: `python -m export.torchscript --model amn`.

The deployment form, traced. The file needs PyTorch and none of this project's model code, runs on CPU, CUDA and
MPS, and takes any batch size.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from lvm_runtime.artifact.fingerprint import random_contexts
from lvm_runtime.artifact.folder import Artifact

from .commandline import main, make_parser, open_arguments, report_line
from .forms import Form, build_form
from .source import Source
from .verify import Sample, verify_file

FILE = "torchscript/fp32.pt"


def export_torchscript(source: Source, samples: Sequence[Sample]) -> Artifact:
    """Trace the deployment form, verify the saved file on `samples` and add it to the artifact.

    Raises VerificationFailed, and keeps nothing, if it does not compute what the training form does.
    """
    artifact = source.artifact
    with artifact.adding(FILE) as temporary:
        trace_form(build_form(source.model), temporary)
        report = verify_file(temporary, samples, format="torchscript", precision="fp32")
        return artifact.commit(
            temporary,
            FILE,
            format="torchscript",
            precision="fp32",
            drift=report.worst_drift,
            details=report.details() | {"torch": str(torch.__version__)},
        )


def trace_form(form: Form, path: Path) -> None:
    """Write `form` in float32 as a TorchScript file; traced at one batch size, it serves every other."""
    form = form.float()
    example = torch.from_numpy(random_contexts(3, form.length, form.config.dim))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch deprecates TorchScript; it is asked for here
        torch.jit.trace(form, example, check_trace=False).save(str(path))


def command(argv: Sequence[str] | None = None) -> int:
    """Run `python -m export.torchscript`."""
    arguments: argparse.Namespace = make_parser("export.torchscript", __doc__ or "").parse_args(argv)
    source, samples = open_arguments(arguments)
    print(report_line(export_torchscript(source, samples), FILE))
    return 0


if __name__ == "__main__":
    main(command)
