"""A model for Triton's Python backend: a Predictor on the artifact that lies beside this file.

Triton imports this file by its place in the model repository. `lvm_runtime` has to be installed in its Python. The
model's parameters backend, precision, max_drift and threads mean what they mean for a Predictor.

B contexts of a request, T context length, D vector.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from lvm_runtime import InvalidInput, Predictor

KINDS = {"backend": str, "precision": str, "max_drift": float, "threads": int}


class TritonPythonModel:
    """What Triton calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the artifact; its known-answer test has to pass, or the model does not become ready."""
        given = json.loads(args["model_config"]).get("parameters", {})
        options: Any = {name: kind(given[name]["string_value"]) for name, kind in KINDS.items() if name in given}
        artifact = Path(args["model_repository"]) / args["model_version"] / "artifact"
        self.predictor = Predictor(artifact, **options)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests `[B, T, D]` in one run; where one is bad, it alone fails."""
        contexts = [pb_utils.get_input_tensor_by_name(request, "context").as_numpy() for request in requests]
        attention = [_explicit(request) for request in requests]
        try:
            return self._answer(contexts, attention)
        except InvalidInput:
            return [self._alone(one, wanted) for one, wanted in zip(contexts, attention, strict=True)]

    def _alone(self, contexts: Any, attention: bool) -> Any:
        try:
            return self._answer([contexts], [attention])[0]
        except InvalidInput as error:
            refused = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(output_tensors=[], error=refused)

    def _answer(self, contexts: list[Any], attention: list[bool]) -> list[Any]:
        whole = np.concatenate(contexts)
        outputs = {"prediction": self.predictor.predict(whole)} if not any(attention) else self._with_attention(whole)
        stops = np.cumsum([len(one) for one in contexts])[:-1]
        split = {name: np.split(values, stops) for name, values in outputs.items()}
        return [
            pb_utils.InferenceResponse(
                [
                    pb_utils.Tensor(name, parts[i])
                    for name, parts in split.items()
                    if name == "prediction" or attention[i]
                ]
            )
            for i in range(len(contexts))
        ]

    def _with_attention(self, contexts: Any) -> dict[str, Any]:
        return dict(
            zip(("prediction", "attention"), self.predictor.predict(contexts, return_attention=True), strict=True)
        )

    def finalize(self) -> None:
        """Release the Predictor."""
        self.predictor.close()


def _explicit(request: Any) -> bool:
    return "attention" in request.requested_output_names()
