"""Coverage-guided fuzzing of what reads an artifact: `python -m tests.coverage_guided TARGET FOLDER -runs=100000`.

TARGET is manifest, fingerprint or weights. Atheris changes an input further when it reached new code, so it gets past
checks at which random damage stops. It needs `pip install atheris`, which has wheels for Linux and macOS.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["lvm_runtime.artifact", "zipfile", "json"]):
    from lvm_runtime.artifact.config import make_config
    from lvm_runtime.artifact.fingerprint import Fingerprint
    from lvm_runtime.artifact.manifest import Manifest, StoredFile
    from lvm_runtime.artifact.weights import check_header
    from lvm_runtime.errors import ArtifactError

CONFIG = make_config("lstm", dim=2, hidden_dim=2, num_layers=1)
FILE = StoredFile("a/b", 3, "0" * 64)


def manifest(data: bytes) -> None:
    """Read `data` as the manifest of schema 1, which has no digest to stop at."""
    try:
        found = Manifest.from_json(data, "m")
    except ArtifactError:
        return
    assert Manifest.from_json(found.to_json(), "m").to_json() == found.to_json()


def fingerprint(data: bytes) -> None:
    """Read `data` as probes, which must be finite and no larger than the file."""
    try:
        found = Fingerprint.from_bytes(data, "f")
    except ArtifactError:
        return
    assert np.isfinite(found.contexts).all()
    assert found.contexts.nbytes <= len(data)


def weights(data: bytes) -> None:
    """Read `data` as a safetensors file of a small LSTM."""
    file = Path(sys.argv[2]) / "damaged.safetensors"
    file.write_bytes(data)
    try:
        check_header(file, CONFIG)
    except ArtifactError:
        return


def seeds() -> dict[str, bytes]:
    """Return one whole file for each target."""
    body = json.loads(Manifest(CONFIG, "2026-01-01", FILE, FILE).to_json()) | {"schema": 1}
    del body["digest"]
    header, start = {}, 0
    for name, shape in CONFIG.weight_shapes():
        end = start + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    return {
        "manifest": json.dumps(body).encode(),
        "fingerprint": Fingerprint(np.ones((2, 5, 2), np.float32), np.ones((2, 2))).to_bytes(),
        "weights": len(text).to_bytes(8, "little") + text + bytes(start),
    }


def main() -> None:
    """Fuzz until the runs are used up, or until an error that is none of this project's."""
    name, folder, *rest = sys.argv[1:]
    corpus = Path(folder) / name
    corpus.mkdir(parents=True, exist_ok=True)
    (corpus / "whole").write_bytes(seeds()[name])
    atheris.Setup([sys.argv[0], str(corpus), "-max_len=8192", f"-artifact_prefix={folder}/", *rest], globals()[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
