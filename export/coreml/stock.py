"""The unmodified module in Core ML: what coremltools makes of it when left alone, as a baseline."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lvm_runtime.artifact.drift import DRIFT_LIMITS, max_drift
from lvm_runtime.coreml.package import import_coremltools
from lvm_runtime.errors import InvalidInput, VerificationFailed
from lvm_runtime.models.amn import AMN
from lvm_runtime.models.transformer import Transformer
from lvm_runtime.system import atomic

from ..mil_reference import Evaluator, load_program
from ..source import Source
from ..verify import Sample
from .convert import quiet, write_package
from .options import CoreMLOptions


class WithAttention(nn.Module):
    """An AMN whose forward returns its attention as well."""

    def __init__(self, model: AMN) -> None:
        super().__init__()
        self.model = model

    def forward(self, contexts: Tensor) -> tuple[Tensor, Tensor]:
        """Return predictions `[B, D]` and attention `[B, T]`."""
        return self.model.forward_with_attention(contexts)


def export_stock(source: Source, samples: Sequence[Sample], options: CoreMLOptions, path: Path) -> tuple[Path, float]:
    """Write the stock conversion to `path`; return it and its drift, checked like any other."""
    model: nn.Module = WithAttention(source.model) if isinstance(source.model, AMN) else source.model
    config = source.artifact.config
    with atomic.replacing(path) as temporary, warnings.catch_warnings():
        # stock modules branch on their inputs' shapes, and torch.export deprecates parts of itself
        warnings.filterwarnings("ignore", message="Converting a tensor to a Python")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        if isinstance(source.model, Transformer):
            _convert_exported(model, options, (config.context_length, config.dim), temporary)
        else:
            write_package(model, options, (config.context_length, config.dim), temporary)
        worst = _drift(temporary, options, samples[0])
        if not worst <= DRIFT_LIMITS[options.precision]:
            raise VerificationFailed(f"the stock conversion drifts by {worst:.1e}; nothing was kept")
        atomic.share_tree(temporary)
    return path, worst


def _convert_exported(model: nn.Module, options: CoreMLOptions, shape: tuple[int, int], path: Path) -> None:
    """Convert through `torch.export`: the traced attention of torch does not convert under NumPy 2.4."""
    if len(options.batch_sizes) > 1:
        raise InvalidInput(
            f"--stock converts a transformer for one batch size, got {', '.join(map(str, options.batch_sizes))}; "
            "give one with --batch-sizes, or use --shapes static"
        )
    ct = import_coremltools()
    (size,) = options.batch_sizes
    half = options.precision == "fp16"
    dtype = np.float16 if half else np.float32
    with quiet():
        program: Any = torch.export.export(model, (torch.zeros(size, *shape),)).run_decompositions({})
        ct.convert(
            program,
            inputs=[ct.TensorType("context", (size, *shape), dtype=dtype)],
            outputs=[ct.TensorType("prediction", dtype=dtype)],
            minimum_deployment_target=getattr(ct.target, str(options.target)),
            compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
            skip_model_load=True,
        ).save(str(path))


def _drift(package: Path, options: CoreMLOptions, sample: Sample) -> float:
    """Return the largest drift, over every batch size."""
    program, worst = load_program(package), 0.0
    for size, name in options.functions.items():
        evaluate = Evaluator(program, mode="fp16", function=name if name in program.functions else None)
        (context,) = evaluate.inputs
        part = sample.cycled(size)
        worst = max(worst, max_drift(evaluate({context: part.contexts})["prediction"], part.predictions))
    return worst
