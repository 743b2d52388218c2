"""Export to the native engine: `python -m export.native --model amn`.

Writes the deployment form as a plan with int8 weights, one safetensors file for contexts of any batch size and one for
whole documents (drift ≤ 1e-3, independent of batch-mates to the bit).

B batch, N vectors of a document, T context length, D vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from lvm_runtime.artifact.folder import Artifact

from ..forms import Form, build_form
from ..source import Source
from ..verify import Sample, SequenceRunner, verify, verify_file
from .files import FILES
from .plan import PlanOps, build_plan


def export_native(source: Source, samples: Sequence[Sample], kind: str = "context") -> Artifact:
    """Write the form `kind` ("context" or "sequence"), verify the file and add it to the artifact.

    Raises VerificationFailed, and keeps nothing, if it drifts too far or lets batch-mates change an answer.

    >>> from export.source import open_source
    >>> from export.verify import make_samples
    >>> source = open_source("amn")
    >>> artifact = export_native(source, make_samples(source))
    >>> artifact.find("native")[0].precision
    'int8'
    """
    artifact, relative = source.artifact, FILES[kind]
    with artifact.adding(relative) as temporary:
        write_native(build_form(source.model), temporary, kind, artifact.read_fingerprint().real)
        if kind == "context":
            report = verify_file(temporary, samples, format="native", precision="int8")
        else:
            runner = SequenceRunner(temporary, artifact.config.context_length, format="native")
            report = verify(runner, samples, name="native sequence int8", precision="int8")
        return artifact.commit(
            temporary,
            relative,
            format="native",
            precision="int8",
            drift=report.worst_drift,
            form=kind,
            details=report.details(),
        )


def write_native(form: Form, path: Path, kind: str = "context", contexts: NDArray[np.float32] | None = None) -> None:
    """Write `form` as the native file `path`; `contexts` `[n, T, D]`, if there are any, are what it is centred on."""
    plan, tensors = build_plan(form, PlanOps(form, contexts), kind)
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path, {"plan": plan})
