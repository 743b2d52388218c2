"""Write deployment forms as ONNX files, verify them and add them to an artifact.

B batch, N vectors of a document, T context length, D vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from lvm_runtime.artifact.folder import Artifact

from ..forms import Form, build_form
from ..norms import largest_norm
from ..source import Source
from ..verify import Sample, verify_file, verify_program, verify_sequence
from .files import SEQUENCE_FILE, context_file
from .graph import GraphOps, build_graph
from .quantise import Int8GraphOps


def export_onnx(source: Source, samples: Sequence[Sample], precision: str = "fp32") -> Artifact:
    """Write the context form in `precision` ("fp32" or "int8"), verify the file and add it to the artifact.

    Raises VerificationFailed, and keeps nothing, if it drifts too far or lets batch-mates change an answer.

    >>> from export.source import open_source
    >>> from export.verify import make_samples
    >>> source = open_source("amn")
    >>> artifact = export_onnx(source, make_samples(source), "int8")
    >>> artifact.find("onnx", precision="int8")[0].drift < 1e-3
    True
    """
    artifact, relative, form = source.artifact, context_file(precision), build_form(source.model)
    if precision != "fp32":
        verify_program(partial(write_graph, form, precision="fp32"), samples, partial(verify_file, format="onnx"))
    with artifact.adding(relative) as temporary:
        write_graph(form, temporary, precision, contexts=artifact.read_fingerprint().real)
        report = verify_file(temporary, samples, format="onnx", precision=precision)
        norm = largest_norm(temporary, source, samples, format="onnx", precision=precision)
        return artifact.commit(
            temporary,
            relative,
            format="onnx",
            precision=precision,
            drift=report.worst_drift,
            largest_norm=norm,
            details=report.details() | {"onnx": onnx.__version__},
        )


def export_sequence(source: Source, samples: Sequence[Sample]) -> Artifact:
    """Write the sequence form in fp32, verify each sample's contexts as documents, and add it to the artifact.

    It takes the vectors of a document `[N, D]` and returns `[N − T + 1, D]`. Raises VerificationFailed, and keeps
    nothing, if it does not compute what the training form does.

    >>> from export.source import open_source
    >>> from export.verify import make_samples
    >>> source = open_source("amn")
    >>> artifact = export_sequence(source, make_samples(source))
    >>> artifact.find("onnx", form="sequence")[0].file.path
    'onnx/sequence-fp32.onnx'
    """
    artifact = source.artifact
    with artifact.adding(SEQUENCE_FILE) as temporary:
        write_graph(build_form(source.model), temporary, "fp32", "sequence")
        report = verify_sequence(temporary, source, samples, format="onnx", precision="fp32")
        return artifact.commit(
            temporary,
            SEQUENCE_FILE,
            format="onnx",
            precision="fp32",
            drift=report.worst_drift,
            form="sequence",
            details=report.details() | {"onnx": onnx.__version__},
        )


def write_graph(
    form: Form, path: Path, precision: str, kind: str = "context", contexts: NDArray[np.float32] | None = None
) -> None:
    """Write `form` as the ONNX file `path`; `kind` is "context" or "sequence".

    `contexts` `[n, T, D]`, if there are any, are what int8 is centred on.
    """
    ops = Int8GraphOps(form, contexts) if precision == "int8" else GraphOps(form)
    path.write_bytes(build_graph(form, ops, kind, precision).SerializeToString())
