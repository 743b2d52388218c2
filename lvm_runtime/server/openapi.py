"""The description of the REST side in OpenAPI's form: what there is, and what it takes."""

from __future__ import annotations

from typing import Any

import lvm_runtime
from lvm_runtime.server.models import Models
from lvm_runtime.server.protocol import INPUT, OUTPUTS

_ERRORS = {
    "400": "a request that cannot be read, or a tensor that cannot be used; the message names the first bad row",
    "401": "no token, or a wrong one",
    "404": "no such model or version",
    "408": "the request did not come in time",
    "413": "more bytes or contexts than the server takes",
    "415": "a content encoding other than gzip and deflate",
    "503": "the server is loading, stopping or has a full queue; try again later",
}
_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_NUMBER = {"type": "number"}
_STRING = {"type": "string"}


def describe(models: Models) -> dict[str, Any]:
    """Return the description, with the names of the models that are served."""
    names = sorted({spec.name for spec in models.specs})
    versions = sorted({spec.version for spec in models.specs})
    paths: dict[str, Any] = {}
    for base, parameters in (
        ("/v2/models/{model}", [_parameter("model", names)]),
        ("/v2/models/{model}/versions/{version}", [_parameter("model", names), _parameter("version", versions)]),
    ):
        paths[base] = {"get": _operation("What a model takes and gives", _object(), parameters)}
        paths[f"{base}/ready"] = {"get": _operation("Whether a model is loaded", _object(), parameters)}
        paths[f"{base}/stats"] = {"get": _operation("What a model has done", _object(), parameters)}
        answer = {"application/json": {"schema": _answer()}, "application/octet-stream": {"schema": {}}}
        paths[f"{base}/infer"] = {"post": _operation("Predict", answer, parameters, _request())}
    for path, summary in (
        ("/v2", "What server this is"),
        ("/v2/health/live", "Whether the server answers"),
        ("/v2/health/ready", "Whether every model is loaded"),
        ("/v2/models/stats", "What each model has done"),
        ("/openapi.json", "This description"),
    ):
        paths[path] = {"get": _operation(summary, _object(), [])}
    paths["/metrics"] = {"get": _operation("Metrics for Prometheus", {"text/plain": {"schema": _STRING}}, [])}
    index = {"application/json": {"schema": {"type": "array", "items": {"type": "object"}}}}
    paths["/v2/repository/index"] = {"post": _operation("The models", index, [])}
    info = {"title": "lvm_runtime", "version": lvm_runtime.__version__}
    return {"openapi": "3.1.0", "info": info, "paths": paths}


def _operation(
    summary: str, content: dict[str, Any], parameters: list[dict[str, Any]], body: dict[str, Any] | None = None
) -> dict[str, Any]:
    errors = {
        status: {"description": text, "content": {"application/json": {"schema": _ERROR}}}
        for status, text in _ERRORS.items()
    }
    if "Whether" in summary:
        errors["503"] = {"description": "not yet, or no longer", "content": _object()}
    found: dict[str, Any] = {"summary": summary, "parameters": parameters}
    if body is not None:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return found | {"responses": {"200": {"description": summary, "content": content}, **errors}}


def _parameter(name: str, known: list[str]) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "examples": known}}


def _object() -> dict[str, Any]:
    return {"application/json": {"schema": {"type": "object"}}}


def _request() -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"binary_data_output": {"type": "boolean"}}}
    shape = {"type": "array", "items": {"type": "integer", "minimum": 0}}
    data = {"type": "array", "items": _NUMBER}
    properties = {
        "name": {"const": INPUT},
        "shape": shape,
        "datatype": {"enum": ["FP32", "FP16", "FP64"]},
        "data": data,
    }
    tensor = {"type": "object", "required": list(properties), "properties": properties}
    output = {"type": "object", "required": ["name"], "properties": {"name": {"enum": list(OUTPUTS)}}}
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": _STRING,
            "parameters": parameters,
            "inputs": {"type": "array", "minItems": 1, "maxItems": 1, "items": tensor},
            "outputs": {"type": "array", "items": output},
        },
    }


def _answer() -> dict[str, Any]:
    properties = {"name": _STRING, "shape": {"type": "array"}, "datatype": {"const": "FP32"}, "data": {"type": "array"}}
    tensor = {"type": "object", "required": ["name", "shape", "datatype"], "properties": properties}
    return {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "id": _STRING,
            "model_name": _STRING,
            "model_version": _STRING,
            "outputs": {"type": "array", "items": tensor},
        },
    }
