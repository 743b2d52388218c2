"""Write native files of random weights with contexts and this machine's answers into a folder, for `check`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from export.forms import build_form
from export.native.export import write_native
from export.native.files import FILES
from export.randomise import randomise
from lvm_runtime.artifact.config import ARCHITECTURES, make_config
from lvm_runtime.artifact.fingerprint import random_contexts
from lvm_runtime.models import build_model
from lvm_runtime.native import _engine


def main(folder: Path) -> None:
    """Write a case per architecture and form, of 9 contexts with D=96, and `small-…` with D=16 without contexts."""
    folder.mkdir(parents=True, exist_ok=True)
    contexts = random_contexts(9, 5, 96)
    for architecture in ARCHITECTURES:
        sizes = {"hidden_dim": 72} | ({"num_heads": 3, "ffn_dim": 100} if architecture == "transformer" else {})
        model = randomise(build_model(make_config(architecture, dim=96, **sizes), seed=0))
        for kind in FILES:
            path = folder / f"{architecture}-{kind}"
            write_native(build_form(model), path, kind)
            predictions = np.empty((9 if kind == "context" else 41, 96), np.float32)
            _engine.Engine(path.read_bytes()).run(contexts, predictions)
            path.with_name(f"{path.name}.contexts").write_bytes(contexts.tobytes())
            path.with_name(f"{path.name}.predictions").write_bytes(predictions.tobytes())
        small = {name: 12 if name == "hidden_dim" else size for name, size in sizes.items()}
        model = randomise(build_model(make_config(architecture, dim=16, **small), seed=0))
        for kind in FILES:  # to be changed byte by byte
            write_native(build_form(model), folder / f"small-{architecture}-{kind}", kind)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
