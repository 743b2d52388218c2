"""JSON for strangers, and from them: refused where readers could disagree on it, or where it is too deep to walk."""

from __future__ import annotations

import json
import math
from typing import Any

from lvm_runtime.artifact.limits import DEEPEST_JSON
from lvm_runtime.errors import ArtifactError


def parse_object(data: bytes, source: str) -> dict[str, Any]:
    """Return the JSON object in `data`, in UTF-8.

    Raises ArtifactError, with `source`, for anything else, a key that comes twice, or more than 32 levels.

    >>> parse_object(b'{"schema": 2}', "manifest.json")
    {'schema': 2}
    """
    try:
        body = json.loads(data.decode(), object_pairs_hook=_unique)
    except RecursionError as error:
        raise ArtifactError(_too_deep(source)) from error
    except ValueError as error:  # also text that is not UTF-8, and numbers of thousands of digits
        raise ArtifactError(f"{source}: not valid JSON ({error})") from error
    if not isinstance(body, dict):
        raise ArtifactError(f"{source}: expected an object, got {type(body).__name__}")
    level: list[Any] = [body]
    for _ in range(DEEPEST_JSON):
        level = [child for value in level for child in _children(value)]
    if level:
        raise ArtifactError(_too_deep(source))
    return body


def numbers_or_null(value: Any) -> Any:
    """Return JSON values with null for NaN and infinity: JSON has neither, and readers in other languages refuse them.

    >>> numbers_or_null({"cosine": float("nan"), "epochs": [3, 4.5]})
    {'cosine': None, 'epochs': [3, 4.5]}
    """
    if isinstance(value, dict):
        return {key: numbers_or_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [numbers_or_null(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    body = dict(pairs)
    if len(body) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in body if names.count(name) > 1)!r} comes twice")
    return body


def _children(value: Any) -> list[Any]:
    values = value.values() if isinstance(value, dict) else value
    return [child for child in values if isinstance(child, dict | list)]


def _too_deep(source: str) -> str:
    return f"{source}: nested more than {DEEPEST_JSON} levels deep; expected a few"
