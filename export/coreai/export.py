"""Export to Core AI: `python -m export.coreai --model amn`.

Convert, execute with Core AI's own runtime, describe, and add to the artifact; what fails leaves nothing behind.
"""

from __future__ import annotations

import math
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.errors import VerificationFailed
from lvm_runtime.system import atomic

from ..source import Source
from ..verify import BATCH_SIZES, Report, Sample, verify_file
from .convert import coreai_form, describe, write_asset
from .options import CoreAIOptions

ROWS = {("fp32", "dynamic"): 128, ("fp32", "static"): 128, ("fp16", "static"): 32, ("fp16", "dynamic"): 4}
"""Contexts of each sample that are executed. The reference runtime emulates fp16: at full size a context takes up to 70
ms in convolutions and up to 3 s in linear layers."""
FORM_ROWS = 4
"""Contexts of each sample on which the form of an asset in another precision is executed in fp32."""


def export_coreai(source: Source, samples: Sequence[Sample], options: CoreAIOptions) -> Artifact:
    """Add the asset of `options` to the artifact and return the artifact with it.

    Raises VerificationFailed, and keeps nothing, if the asset drifts too far or lets batch-mates change an answer.

    >>> from export.source import open_source
    >>> from export.verify import make_samples
    >>> source = open_source("amn")
    >>> options = CoreAIOptions(shapes="dynamic", precision="fp32")
    >>> export_coreai(source, make_samples(source), options).find("coreai")[0].file.path
    'coreai/fp32.aimodel'
    """
    config = source.artifact.config
    if options.manifest_precision != "fp32":
        _prove_form(source, samples, replace(options, precision="fp32", compress="none", batch_sizes=(FORM_ROWS,)))
    with source.artifact.adding(options.path) as temporary:
        write_asset(coreai_form(source.model, options), options, (config.context_length, config.dim), temporary)
        title = f"{config.architecture}: predicts the next vector of a document from its last {config.context_length}"
        about = {"architecture": config.architecture, "weights_sha256": source.artifact.manifest.weights.sha256}
        describe(temporary, title, about | {"precision": options.manifest_precision})
        report = verify_asset(temporary, samples, options)
        describe(temporary, title, {"drift": report.worst_drift})
        atomic.share_tree(temporary)
        return source.artifact.commit(
            temporary,
            options.path,
            format="coreai",
            precision=options.manifest_precision,
            drift=report.worst_drift,
            batch_sizes=options.fixed_sizes,
            details=report.details(),
        )


def _prove_form(source: Source, samples: Sequence[Sample], options: CoreAIOptions) -> None:
    """Verify the form in fp32 first: rounding to fp16 moves a prediction by more than many mistakes do."""
    config = source.artifact.config
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "form.aimodel"
        write_asset(coreai_form(source.model, options), options, (config.context_length, config.dim), path)
        few = [replace(sample.first(FORM_ROWS), lengthened=()) for sample in samples]
        verify_file(path, few, format="coreai", precision="fp32", batch_sizes=(FORM_ROWS,))


def verify_asset(path: Path, samples: Sequence[Sample], options: CoreAIOptions) -> Report:
    """Execute each function of the asset at `path` on some contexts of each sample and compare the answers."""
    rows = ROWS[options.precision, options.shapes]
    sizes = options.fixed_sizes or tuple(size for size in BATCH_SIZES if size <= rows)
    few = [sample.first(rows) for sample in samples]
    few[0] = samples[0].cycled(max(rows, *sizes))  # enough for the function of the largest size
    if platform.system() == "Darwin":  # what the system's own arithmetic rounds was not measured
        few = [replace(sample, rounding=math.inf) for sample in few]
    try:
        return verify_file(path, few, format="coreai", precision=options.manifest_precision, batch_sizes=sizes)
    except VerificationFailed as error:
        if options.compress == "none":
            raise
        raise VerificationFailed(
            f"--compress {options.compress}: too coarse for this model; use milder compression. {error}"
        ) from error
