"""What a package says of itself: Xcode shows it, and the runtime reads its functions from it.

Keys in the user-defined metadata start with "lvm."; `FUNCTIONS` holds batch sizes and function names as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lvm_runtime.coreml.package import FUNCTIONS, SPEC, load_spec

_INPUTS = {"context": "The last T vectors of a document, oldest first: [batch, {length}, {dim}]."}
_OUTPUTS = {
    "prediction": "The predicted next vector, L2 norm 1: [batch, {dim}].",
    "attention": "How much each of the T vectors counted, rows sum to 1: [batch, {length}].",
}


def describe(
    package: Path,
    *,
    title: str,
    length: int,
    dim: int,
    functions: Mapping[int, str],
    metadata: Mapping[str, Any],
) -> None:
    """Write descriptions of the model, its inputs and its outputs, and `metadata` under "lvm." keys, into `package`.

    The package is changed in place: call it on one that nobody uses yet.
    """
    spec = load_spec(package)
    about = spec.description.metadata
    about.shortDescription = title
    about.author = "lvm_runtime"
    for key, value in metadata.items():
        about.userDefined[f"lvm.{key}"] = value if isinstance(value, str) else json.dumps(value)
    about.userDefined[FUNCTIONS] = json.dumps({str(size): name for size, name in functions.items()})
    for holder in (spec.description, *spec.description.functions):
        for features, texts in ((holder.input, _INPUTS), (holder.output, _OUTPUTS)):
            for feature in features:
                feature.shortDescription = texts.get(feature.name, "").format(length=length, dim=dim)
    (package / SPEC).write_bytes(spec.SerializeToString())
