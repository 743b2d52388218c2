"""The manifest's schema: what it writes it reads, and everything else is an error that names the key."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from lvm_runtime.artifact.config import ARCHITECTURES, make_config
from lvm_runtime.artifact.manifest import SCHEMA_VERSION, CompiledFile, Manifest, StoredFile
from lvm_runtime.errors import ArtifactError, InvalidInput

FILE = StoredFile("a/b", 3, "0" * 64)


def _manifest(architecture: str = "amn") -> Manifest:
    compiled = (
        CompiledFile(FILE, "onnx", "int8", 2e-4, batch_sizes=(1, 8), details={"opset": 20}),
        CompiledFile(FILE, "onnx", "fp32", 0.0, form="sequence"),
    )
    return Manifest(make_config(architecture, dim=12), "2026-01-01", FILE, FILE, {"data": {"n": 1}}, compiled)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_reads_what_it_writes(architecture: str) -> None:
    manifest = _manifest(architecture)
    assert Manifest.from_json(manifest.to_json(), "m") == manifest


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "newer schema": (lambda m: m.update(schema=SCHEMA_VERSION + 1), "schema 2.*upgrade lvm_runtime"),
    "no schema": (lambda m: m.pop("schema"), "schema None"),
    "unknown key": (lambda m: m.update(colour="red"), "unknown key 'colour'"),
    "missing key": (lambda m: m.pop("weights"), "missing key 'weights'"),
    "no architecture": (lambda m: m.pop("architecture"), "unknown architecture"),
    "unknown architecture": (lambda m: m.update(architecture="rwkv"), "unknown architecture 'rwkv'"),
    "unknown config key": (lambda m: m["config"].update(heads=2), "unknown config key 'heads'"),
    "bad config value": (lambda m: m["config"].update(dim=0), "dim is 0"),
    "unknown file key": (lambda m: m["weights"].update(crc=1), "weights: unknown key 'crc'"),
    "missing file key": (lambda m: m["fingerprint"].pop("sha256"), "fingerprint: missing key 'sha256'"),
    "unknown compiled key": (lambda m: m["compiled"][0].update(speed=1), "compiled: unknown key 'speed'"),
    "missing compiled key": (lambda m: m["compiled"][0].pop("precision"), "compiled: missing key 'precision'"),
    "unknown format": (lambda m: m["compiled"][0].update(format="tflite"), "format is 'tflite'"),
    "unknown form": (lambda m: m["compiled"][0].update(form="tree"), "form is 'tree'"),
    "compiled of wrong type": (lambda m: m["compiled"].append(3), "expected an object, got int"),
}


@pytest.mark.parametrize(("damage", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_anything_else_is_an_error_that_names_file_and_key(
    damage: Callable[[dict[str, Any]], object], message: str
) -> None:
    body = json.loads(_manifest().to_json())
    damage(body)
    with pytest.raises(ArtifactError, match=f"folder/manifest.json.*{message}"):
        Manifest.from_json(json.dumps(body).encode(), "folder/manifest.json")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe"], ids=["empty", "cut", "list", "binary"])
def test_what_is_no_json_object_is_an_error(data: bytes) -> None:
    with pytest.raises(ArtifactError, match="m: "):
        Manifest.from_json(data, "m")


def test_an_unknown_precision_cannot_be_listed() -> None:
    with pytest.raises(InvalidInput, match="precision is 'fp8'"):
        CompiledFile(FILE, "onnx", "fp8", 0.0)
