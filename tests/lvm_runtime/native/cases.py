"""Write native files of random weights with contexts and this machine's answers into a folder, for `check`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from export.forms import build_form
from export.native.export import write_native
from export.native.files import FILES
from lvm_runtime.artifact.config import ARCHITECTURES
from lvm_runtime.artifact.fingerprint import random_contexts
from lvm_runtime.native import _engine
from tests.artifacts import randomised


def pass_on(lstm: nn.Module) -> nn.Module:
    """Make the second layer's cells take in what the first one gives, by a weight that a plan cuts into columns."""
    with torch.no_grad():
        for name in ("lstm.bias_ih_l1", "lstm.bias_hh_l1"):
            lstm.get_parameter(name).chunk(4)[2].zero_()
        cells = lstm.get_parameter("lstm.weight_ih_l1").chunk(4)[2]
        cells.copy_(0.0055 * torch.sign(cells) + 1.5 * torch.eye(len(cells)))
    return lstm


def main(folder: Path) -> None:
    """Write a case per architecture and form, of 9 contexts with D=96, and `small-…` with D=16 without contexts."""
    folder.mkdir(parents=True, exist_ok=True)
    contexts = random_contexts(9, 5, 96)
    for architecture in ARCHITECTURES:
        sizes = {"hidden_dim": 72} | ({"num_heads": 3, "ffn_dim": 100} if architecture == "transformer" else {})
        model = randomised(architecture, dim=96, **sizes)
        if architecture == "lstm":
            pass_on(model)
        for kind, precision in FILES:
            path = folder / f"{architecture}-{precision}-{kind}"
            write_native(build_form(model), path, kind, precision=precision)
            predictions = np.empty((9 if kind == "context" else 41, 96), np.float32)
            _engine.Engine(path.read_bytes()).run(contexts, predictions)
            path.with_name(f"{path.name}.contexts").write_bytes(contexts.tobytes())
            path.with_name(f"{path.name}.predictions").write_bytes(predictions.tobytes())
        small = {name: 12 if name == "hidden_dim" else size for name, size in sizes.items()}
        model = randomised(architecture, dim=16, **small)
        for kind, precision in FILES:  # to be changed byte by byte
            path = folder / f"small-{architecture}-{precision}-{kind}"
            write_native(build_form(model), path, kind, precision=precision)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
