"""Export to ONNX: `python -m export.onnx --model amn`.

Writes the deployment form for any batch size, in fp32 (drift ≤ 1e-6) and in int8 (drift ≤ 1e-3, independent of
batch-mates), and the sequence form, which predicts every window of a document and shares their common work.

B batch, N vectors of a document, T context length, D vector.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from export.commandline import main, make_parser, open_arguments, report_line
from export.forms import Form, build_form
from export.graph import GraphOps, build_graph
from export.quantise import Int8GraphOps
from export.source import Source
from export.verify import Sample, SequenceRunner, verify, verify_file
from lvm_runtime.artifact import Artifact

PRECISIONS = ("fp32", "int8")
SEQUENCE_FILE = "onnx/sequence-fp32.onnx"


def export_onnx(source: Source, samples: Sequence[Sample], precision: str = "fp32") -> Artifact:
    """Write the context form in `precision` ("fp32" or "int8"), verify the file and add it to the artifact.

    Raises VerificationFailed, and keeps nothing, if it drifts too far or lets batch-mates change an answer.
    """
    artifact, relative = source.artifact, context_file(precision)
    with artifact.adding(relative) as temporary:
        write_graph(build_form(source.model), temporary, precision, contexts=artifact.read_fingerprint().real)
        report = verify_file(temporary, samples, format="onnx", precision=precision)
        return artifact.commit(
            temporary,
            relative,
            format="onnx",
            precision=precision,
            drift=report.worst_drift,
            details=report.details() | {"onnx": onnx.__version__},
        )


def export_sequence(source: Source, samples: Sequence[Sample]) -> Artifact:
    """Write the sequence form in fp32, verify each sample's contexts as documents, and add it to the artifact."""
    artifact = source.artifact
    with artifact.adding(SEQUENCE_FILE) as temporary:
        write_graph(build_form(source.model), temporary, "fp32", "sequence")
        runner = SequenceRunner(temporary, source.artifact.config.context_length)
        report = verify(runner, samples, name="onnx sequence fp32", precision="fp32")
        return artifact.commit(
            temporary,
            SEQUENCE_FILE,
            format="onnx",
            precision="fp32",
            drift=report.worst_drift,
            form="sequence",
            details=report.details() | {"onnx": onnx.__version__},
        )


def context_file(precision: str) -> str:
    """Return where the context form of `precision` lies in an artifact."""
    return f"onnx/{precision}.onnx"


def write_graph(
    form: Form, path: Path, precision: str, kind: str = "context", contexts: NDArray[np.float32] | None = None
) -> None:
    """Write `form` as the ONNX file `path`; `kind` is "context" or "sequence".

    `contexts` `[n, T, D]`, if there are any, are what int8 is centred on.
    """
    ops = Int8GraphOps(form, contexts) if precision == "int8" else GraphOps(form)
    path.write_bytes(build_graph(form, ops, kind).SerializeToString())


def export_plain(model: nn.Module, path: Path) -> None:
    """Write the training form as PyTorch's own exporter does, in fp32 with a dynamic batch.

    This is what deployment forms are measured against; nothing else uses it. Input `context`, output `prediction`.
    """
    config: Any = model.config
    example = torch.from_numpy(np.zeros((2, config.context_length, config.dim), np.float32))
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        exporter.setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                model.eval(),
                (example,),
                dynamo=True,
                dynamic_shapes={"contexts": {0: torch.export.Dim.DYNAMIC}},
                input_names=["context"],
                output_names=["prediction"],
                verbose=False,
            )
        finally:
            exporter.setLevel(level)
    assert program is not None
    path.write_bytes(program.model_proto.SerializeToString())


def command(argv: Sequence[str] | None = None) -> int:
    """Run `python -m export.onnx`."""
    parser = make_parser("export.onnx", __doc__ or "")
    parser.add_argument(
        "--precision",
        action="append",
        choices=PRECISIONS,
        help="may be repeated (default: fp32 and int8)",
    )
    parser.add_argument("--no-sequence", action="store_true", help="leave out the sequence form")
    arguments: argparse.Namespace = parser.parse_args(argv)
    source, samples = open_arguments(arguments)
    for precision in arguments.precision or PRECISIONS:
        print(report_line(export_onnx(source, samples, precision), context_file(precision)))
    if not arguments.no_sequence:
        print(report_line(export_sequence(source, samples), SEQUENCE_FILE))
    return 0


if __name__ == "__main__":
    main(command)
