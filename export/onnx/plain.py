"""The training form as PyTorch's own exporter writes it: what deployment forms are measured against."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn


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
