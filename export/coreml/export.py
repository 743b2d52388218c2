"""Convert, prove, describe, and add to the artifact; what fails leaves nothing behind."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.system import atomic

from ..source import Source
from ..verify import Sample
from .convert import write_package
from .describe import describe
from .forms import coreml_form
from .options import CoreMLOptions
from .prove import Proof, prove_form, prove_package

Say = Callable[[str], None]


def export_coreml(
    source: Source, samples: Sequence[Sample], options: CoreMLOptions | None = None, *, say: Say = lambda text: None
) -> Artifact:
    """Add `coreml/NAME.mlpackage` (see `CoreMLOptions.name`) to the artifact and return the artifact with it.

    `say` is told what is being done. Raises VerificationFailed, with the figures, if the package is not the model.

    >>> from export.source import open_source
    >>> from export.verify import make_samples
    >>> source = open_source("amn")
    >>> options = CoreMLOptions(shapes="static", batch_sizes=(1,))
    >>> artifact = export_coreml(source, make_samples(source), options)
    >>> artifact.find("coreml")[0].file.path
    'coreml/fp16-static.mlpackage'
    """
    options = options or CoreMLOptions()
    relative = f"coreml/{options.name}.mlpackage"
    with source.artifact.adding(relative) as temporary:
        proof = build_package(source, samples, options, temporary, say=say)
        return source.artifact.commit(
            temporary,
            relative,
            format="coreml",
            precision=options.manifest_precision,
            drift=proof.worst_drift if proof.core_ml_drift is None else max(proof.worst_drift, proof.core_ml_drift),
            batch_sizes=options.batch_sizes,
            details=options.details() | proof.details(),
        )


def build_package(source: Source, samples: Sequence[Sample], options: CoreMLOptions, path: Path, *, say: Say) -> Proof:
    """Write the package to `path` and prove it. The caller removes it if this raises."""
    config = source.artifact.config
    form = coreml_form(source.model, gelu=options.gelu)
    shape = (config.context_length, config.dim)
    say(f"converting for batch sizes {', '.join(map(str, options.batch_sizes))}")
    write_package(form, options, shape, path)
    say("comparing with the training form")
    difference = _form_difference(form, source, samples, options, path)
    proof = prove_package(path, options, samples, form_difference=difference)
    describe(
        path,
        title=f"{config.architecture}: predicts the next vector of a document from its last {shape[0]}",
        length=shape[0],
        dim=shape[1],
        functions=options.functions,
        metadata=_metadata(source, options, proof),
    )
    atomic.share_tree(path)
    return proof


def _form_difference(
    form: nn.Module, source: Source, samples: Sequence[Sample], options: CoreMLOptions, path: Path
) -> float:
    """Prove the form by an fp32 package of it, which is the shipped one itself if that is plain fp32."""
    contexts = samples[0].contexts
    if options.precision == "fp32" and options.compress == "none":
        return prove_form(path, options.functions, source.model, contexts)
    plain = replace(options, precision="fp32", compress="none", shapes="enumerated", target=None)
    if len(plain.batch_sizes) == 1:
        plain = replace(plain, shapes="static")
    config = source.artifact.config
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "form.mlpackage"
        write_package(form, plain, (config.context_length, config.dim), package)
        return prove_form(package, plain.functions, source.model, contexts)


def _metadata(source: Source, options: CoreMLOptions, proof: Proof) -> dict[str, Any]:
    artifact = source.artifact
    return {
        "architecture": artifact.config.architecture,
        "weights_sha256": artifact.manifest.weights.sha256,
        "form": f"{options.shapes} {options.precision}, 1x1 convolutions, steps unrolled",
        "precision": options.manifest_precision,
        "drift": f"{proof.worst_drift:.3e}",
        **options.details(),
        **{name: f"{value:.3e}" for name, value in proof.details().items() if isinstance(value, float)},
    }
