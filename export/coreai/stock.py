"""The unmodified module in Core AI: what coreai-torch makes of it when left alone, as a baseline."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from torch import nn

from lvm_runtime.artifact.drift import DRIFT_LIMITS, max_drift
from lvm_runtime.backends.coreai import CoreAIBackend
from lvm_runtime.commands.tables import aligned
from lvm_runtime.errors import VerificationFailed
from lvm_runtime.models.amn import AMN
from lvm_runtime.system import atomic

from ..coreml.stock import WithAttention
from ..source import Source
from ..verify import Sample
from .convert import coreai_form, operations, write_asset
from .options import CoreAIOptions

_ROWS = 8


def compare_stock(source: Source, samples: Sequence[Sample], options: CoreAIOptions, path: Path) -> str:
    """Write the stock conversion to `path`, and return its drift and its operations beside those of our form."""
    drift = export_stock(source, samples, options, path)
    config = source.artifact.config
    with tempfile.TemporaryDirectory() as folder:
        ours = Path(folder) / "ours.aimodel"
        write_asset(coreai_form(source.model, options), options, (config.context_length, config.dim), ours)
        pair = operations(ours), operations(path)
    rows = [(name, *(str(counts[name]) for counts in pair)) for name in sorted(pair[0] | pair[1])]
    rows.append(("all", *(str(counts.total()) for counts in pair)))
    table = aligned(("operation", "ours", "stock"), rows)
    return f"{path}: the unmodified module, drift {drift:.1e}\n{table}"


def export_stock(source: Source, samples: Sequence[Sample], options: CoreAIOptions, path: Path) -> float:
    """Write the stock conversion to `path` and return its drift, checked like any other."""
    config = source.artifact.config
    with atomic.replacing(path) as temporary:
        write_asset(stock_module(source.model, options), options, (config.context_length, config.dim), temporary)
        drift = executed_drift(temporary, samples[0].first(_ROWS))
        if not drift <= DRIFT_LIMITS[options.precision]:
            raise VerificationFailed(f"the stock conversion drifts by {drift:.1e}; nothing was kept")
        atomic.share_tree(temporary)
    return drift


def stock_module(model: nn.Module, options: CoreAIOptions) -> nn.Module:
    """Return a copy of a training form in the precision of `options`, an AMN with its attention."""
    copied = copy.deepcopy(model)
    module: nn.Module = WithAttention(copied) if isinstance(copied, AMN) else copied
    return module.half() if options.precision == "fp16" else module


def executed_drift(path: Path, sample: Sample) -> float:
    """Execute each function of the asset at `path` on `sample` and return the largest drift."""
    with closing(CoreAIBackend(path, device="cpu")) as backend:
        parts = [sample.cycled(size) for size in backend.batch_sizes or (len(sample.contexts),)]
        return max(max_drift(backend.run(part.contexts), part.predictions) for part in parts)
