"""What the runtime has to know of a Core ML package: where things lie in it, and how its batch sizes are found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from lvm_runtime.errors import ArtifactError

SPEC = PurePosixPath("Data/com.apple.CoreML/model.mlmodel")
FUNCTIONS = "lvm.functions"
COMPUTE_UNITS = "lvm.compute_units"


def read_functions(metadata: Mapping[str, str], source: Path) -> dict[int, str]:
    """Return batch size to function name from a package's user-defined metadata, smallest size first.

    Raises ArtifactError, with `source`, for a package that says nothing of the kind, which this project did not make.
    """
    text = metadata.get(FUNCTIONS)
    try:
        return {size: str(name) for size, name in sorted((int(s), n) for s, n in json.loads(text or "").items())}
    except (ValueError, AttributeError) as error:
        raise ArtifactError(
            f"{source}: its metadata has no usable {FUNCTIONS!r} (found {text!r}); "
            "export it again with: python -m export.coreml"
        ) from error
