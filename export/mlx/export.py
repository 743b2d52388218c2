"""Export to MLX: `python -m export.mlx --model amn`.

Writes the deployment form as a plan with fp32 weights, the file format of `export.native`. MLX runs it in fp32, fp16 or
bfloat16.
"""

from __future__ import annotations

from collections.abc import Sequence

from lvm_runtime.artifact.folder import Artifact

from ..native.export import export_plan
from ..source import Source
from ..verify import Sample
from .files import FILES


def export_mlx(source: Source, samples: Sequence[Sample], kind: str = "context") -> Artifact:
    """Write the form `kind` ("context" or "sequence"), verify the file by running it, and add it to the artifact.

    Raises VerificationFailed, and keeps nothing, if it drifts too far or lets batch-mates change an answer.

    >>> from export.source import open_source
    >>> from export.verify import make_samples
    >>> source = open_source("amn")
    >>> artifact = export_mlx(source, make_samples(source))
    >>> artifact.find("mlx")[0].drift < 1e-9
    True
    """
    return export_plan(source, samples, kind, path=FILES[kind], format="mlx", precision="fp32")
