"""Export to the native engine: `python -m export.native --model amn`.

Writes the deployment form as a plan, one safetensors file for contexts of any batch size and one for whole documents,
with int8 weights (drift ≤ 1e-3) or fp32 ones (≤ 1e-6). Answers do not depend on batch-mates, to the bit.

B batch, N vectors of a document, T context length, D vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.backends.plan_file import LARGEST_LENGTH
from lvm_runtime.errors import InvalidInput

from ..forms import Form, build_form
from ..norms import largest_norm
from ..source import Source
from ..verify import Report, Sample, verify_file, verify_program, verify_sequence
from .files import FILES
from .plan import PlanOps, build_plan

MOST_INPUTS = 32768
"""Of a product, so that its sum of integers stays below 2³¹."""


def export_native(
    source: Source, samples: Sequence[Sample], kind: str = "context", precision: str = "int8"
) -> Artifact:
    """Write the form `kind` ("context" or "sequence") in "int8" or "fp32", verify the file and add it to the artifact.

    Raises VerificationFailed, and keeps nothing, if it drifts too far or lets batch-mates change an answer, and
    InvalidInput for a model that is larger than the engine takes.

    >>> from export.source import open_source
    >>> from export.verify import make_samples
    >>> source = open_source("amn")
    >>> artifact = export_native(source, make_samples(source))
    >>> artifact.find("native")[0].precision
    'int8'
    """
    return export_plan(source, samples, kind, path=FILES[kind, precision], format="native", precision=precision)


def export_plan(
    source: Source, samples: Sequence[Sample], kind: str, *, path: str, format: str, precision: str
) -> Artifact:
    """Write the form `kind` as a plan at `path`, verify it through the backend of `format` and add it to the artifact.

    Raises InvalidInput and VerificationFailed, and keeps nothing, as `export_native` does.
    """
    artifact, form = source.artifact, build_form(source.model)
    _refuse_what_does_not_fit(form, format)
    check: Callable[..., Report] = partial(verify_file, format=format)
    if kind == "sequence":
        check = partial(verify_sequence, source=source, format=format)
    if precision != "fp32":
        verify_program(partial(write_native, form, kind=kind, precision="fp32"), samples, check)
    with artifact.adding(path) as temporary:
        contexts = artifact.read_fingerprint().real
        write_native(form, temporary, kind, contexts, precision=precision)
        report = check(temporary, samples=samples, precision=precision)
        norm = None  # of a sequence form: that of the context form, whose answers it gives
        if kind == "context":
            norm = largest_norm(temporary, source, samples, format=format, precision=precision)
        return artifact.commit(
            temporary,
            path,
            format=format,
            precision=precision,
            drift=report.worst_drift,
            form=kind,
            largest_norm=norm,
            details=report.details(),
        )


def _refuse_what_does_not_fit(form: Form, format: str) -> None:
    sizes = [("vectors of a context", form.length, LARGEST_LENGTH)]
    if format == "native":
        widest = max(weight.shape[0] for weight in form.buffers() if weight.ndim == 2)
        sizes.append(("inputs of a product", widest, MOST_INPUTS))
    for what, found, most in sizes:
        if found > most:
            raise InvalidInput(
                f"{format} takes at most {most:,} {what}, and this model has {found:,}; export it to onnx instead"
            )


def write_native(
    form: Form,
    path: Path,
    kind: str = "context",
    contexts: NDArray[np.float32] | None = None,
    *,
    precision: str = "int8",
) -> None:
    """Write `form` as a plan in `precision`; int8 is centred on `contexts` `[n, T, D]`, if there are any."""
    plan, tensors = build_plan(form, PlanOps(form, contexts, precision=precision), kind)
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path, {"plan": plan})
