"""`lvm-runtime export torchscript --model amn`, or `python -m export.torchscript` in a checkout.

The functions import torch themselves, so that `--help` answers without it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lvm_runtime.artifact.fingerprint import random_contexts
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.commands import console

from .commandline import make_parser, open_arguments, report_line

if TYPE_CHECKING:
    from .forms import Form
    from .source import Source
    from .verify import Sample

DESCRIPTION = """\
Export to TorchScript.

The deployment form, traced. The file needs PyTorch and none of this project's model code, runs on CPU, CUDA and
MPS, and takes any batch size."""
FILE = "torchscript/fp32.pt"


def export_torchscript(source: Source, samples: Sequence[Sample]) -> Artifact:
    """Trace the deployment form, verify the saved file on `samples` and add it to the artifact.

    Raises VerificationFailed, and keeps nothing, if it does not compute what the training form does.

    >>> from export.source import open_source
    >>> from export.verify import make_samples
    >>> source = open_source("amn")
    >>> artifact = export_torchscript(source, make_samples(source))
    >>> artifact.find("torchscript")[0].file.path
    'torchscript/fp32.pt'
    """
    import torch

    from .forms import build_form
    from .verify import verify_file

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
    import torch

    form = form.float()
    example = torch.from_numpy(random_contexts(3, form.length, form.config.dim))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", "`torch.jit")  # torch deprecates TorchScript; it is asked for here
        traced = torch.jit.trace(form, example, check_trace=False)
        # given a path, torch writes by itself, and ends the process where the disk is full
        path.write_bytes(traced.save_to_buffer())


def command(argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Parse the command line and export."""
    arguments = make_parser(DESCRIPTION, prog).parse_args(argv)
    source, samples = open_arguments(arguments)
    console.show(report_line(export_torchscript(source, samples), FILE))
    return 0


if __name__ == "__main__":
    raise SystemExit(console.run(command))
