"""The manifest's schema: what it writes it reads, and everything else is an error that names the key."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvm_runtime.artifact.config import ARCHITECTURES, CONFIGS, ModelConfig, make_config
from lvm_runtime.artifact.drift import PRECISIONS
from lvm_runtime.artifact.json_text import numbers_or_null
from lvm_runtime.artifact.limits import (
    DEEPEST_JSON,
    LARGEST_BATCH,
    LARGEST_FILE,
    LARGEST_MANIFEST,
    LARGEST_PATH,
    MOST_BATCH_SIZES,
    MOST_COMPILED,
)
from lvm_runtime.artifact.manifest import FORMATS, FORMS, SCHEMA_VERSION, CompiledFile, Manifest, StoredFile, seal
from lvm_runtime.errors import ArtifactError, InvalidInput
from tests.fuzzing import json_values, quick_settings

FILE = StoredFile("a/b", 3, "0" * 64)


def _manifest(architecture: str = "amn") -> Manifest:
    compiled = (
        CompiledFile(FILE, "onnx", "int8", 2e-4, batch_sizes=(1, 8), details={"opset": 20}),
        CompiledFile(FILE, "onnx", "fp32", 0.0, form="sequence"),
    )
    return Manifest(make_config(architecture, dim=12), "2026-01-01", FILE, FILE, {"data": {"n": 1}}, compiled)


_files = st.builds(
    StoredFile,
    st.sampled_from(["model.safetensors", "onnx/fp32.onnx", "coreml/int8.mlpackage", "a/b/c"]),
    st.integers(0, LARGEST_FILE),
    st.integers(0, 2**256 - 1).map("{:064x}".format),
)
_objects = st.dictionaries(st.text(max_size=8), json_values, max_size=3)
_compiled = st.builds(
    CompiledFile,
    _files,
    st.sampled_from(FORMATS),
    st.sampled_from(PRECISIONS),
    st.floats(0, 1e300) | st.integers(0, 1),
    st.sampled_from(FORMS),
    st.none() | st.lists(st.integers(1, LARGEST_BATCH), min_size=1, max_size=3).map(tuple),
    st.none() | st.floats(0, 1e300),
    _objects,
)


@quick_settings(30)
@given(
    st.sampled_from(ARCHITECTURES).map(lambda name: make_config(name, **CONFIGS[name].small)),
    st.text(max_size=20),
    _files,
    _files,
    _objects,
    st.lists(_compiled, max_size=3).map(tuple),
)
def test_reads_what_it_writes(
    config: ModelConfig,
    created: str,
    weights: StoredFile,
    fingerprint: StoredFile,
    provenance: dict[str, Any],
    compiled: tuple[CompiledFile, ...],
) -> None:
    """What is no number, in provenance or details, is null."""
    compiled = tuple(dataclasses.replace(form, details=numbers_or_null(form.details)) for form in compiled)
    manifest = Manifest(config, created, weights, fingerprint, numbers_or_null(provenance), compiled)
    data = manifest.to_json()
    found = Manifest.from_json(data, "m")
    assert repr(found) == repr(manifest)
    assert found.to_json() == data
    assert found.files == (weights, fingerprint, *(form.file for form in compiled))


def _nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "newer schema": (
        lambda m: m.update(schema=SCHEMA_VERSION + 1),
        f"schema {SCHEMA_VERSION + 1}.*upgrade lvm_runtime",
    ),
    "schema 0": (lambda m: m.update(schema=0), "schema 0"),
    "schema of true": (lambda m: m.update(schema=True), "schema True"),
    "no schema": (lambda m: m.pop("schema"), "schema None"),
    "unknown key": (lambda m: m.update(colour="red"), "unknown key 'colour'"),
    "two unknown keys": (
        lambda m: m.update(size=1, colour="red"),
        "unknown key 'colour'; expected config, created, weights, fingerprint, provenance, compiled",
    ),
    "missing key": (lambda m: m.pop("weights"), "missing key 'weights'"),
    "no architecture": (lambda m: m.pop("architecture"), "missing key 'architecture'"),
    "no config": (lambda m: m.pop("config"), "missing key 'config'"),
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
    "compiled is an object": (lambda m: m.update(compiled={}), "compiled: expected a list, got dict"),
    "too many forms": (lambda m: m.update(compiled=[1] * 1000), "1000 compiled forms"),
    "provenance of wrong type": (lambda m: m.update(provenance=3), "provenance has the wrong type"),
    "created is a number": (lambda m: m.update(created=2026), "created or provenance has the wrong type"),
    "config is a list": (lambda m: m.update(config=[]), "config: expected an object, got list"),
    "config names the architecture": (lambda m: m["config"].update(architecture="gru"), "unknown config key 'arch"),
    "batch of a million": (lambda m: m["compiled"][0].update(batch_sizes=[10**6]), "batch_sizes has 1000000"),
    "batch of true": (lambda m: m["compiled"][0].update(batch_sizes=[True]), "batch_sizes has True"),
    "batch of 0": (lambda m: m["compiled"][0].update(batch_sizes=[1, 0]), "batch_sizes has 0"),
    "batch sizes of a number": (
        lambda m: m["compiled"][0].update(batch_sizes=8),
        "batch_sizes: expected a list, got int",
    ),
    "too many batch sizes": (
        lambda m: m["compiled"][0].update(batch_sizes=[1] * (MOST_BATCH_SIZES + 1)),
        f"{MOST_BATCH_SIZES + 1} batch_sizes, expected 1 to {MOST_BATCH_SIZES}",
    ),
    "no batch sizes": (lambda m: m["compiled"][0].update(batch_sizes=[]), "0 batch_sizes"),
    "NaN drift": (lambda m: m["compiled"][0].update(drift=float("nan")), "drift is nan"),
    "infinite drift": (lambda m: m["compiled"][0].update(drift=float("inf")), "drift is inf"),
    "drift below 0": (lambda m: m["compiled"][0].update(drift=-1e-9), "drift is -1e-09"),
    "drift of true": (lambda m: m["compiled"][0].update(drift=True), "drift is True"),
    "details in a list": (lambda m: m["compiled"][0].update(details=[]), "details is list, expected an object"),
    "form's file in words": (
        lambda m: m["compiled"][0].update(file="a"),
        "compiled: file: expected an object, got str",
    ),
    "negative norm": (lambda m: m["compiled"][0].update(largest_norm=-1), "largest_norm is -1"),
    "norm of NaN": (lambda m: m["compiled"][0].update(largest_norm=float("nan")), "largest_norm is nan"),
    "norm in words": (lambda m: m["compiled"][0].update(largest_norm="long"), "largest_norm is 'long'"),
    "drift in words": (lambda m: m["compiled"][0].update(drift="small"), "drift is 'small'"),
    "bytes below 0": (lambda m: m["weights"].update(bytes=-1), "weights: bytes is -1"),
    "bytes of true": (lambda m: m["weights"].update(bytes=True), "weights: bytes is True"),
    "a terabyte": (lambda m: m["weights"].update(bytes=10**12), "weights: bytes is 1000000000000"),
    "no hash": (lambda m: m["weights"].update(sha256="x"), "64 hexadecimal digits"),
    "65 digits": (lambda m: m["weights"].update(sha256="0" * 65), "sha256 is '0{65}', expected 64 hexadecimal digits"),
    "hash is a number": (lambda m: m["weights"].update(sha256=0), "sha256: expected a string, got int"),
    "path is a number": (lambda m: m["weights"].update(path=3), "path: expected a string, got int"),
    "path of the folder": (lambda m: m["weights"].update(path="."), "path '.', expected one such as"),
    "path that is absolute": (lambda m: m["weights"].update(path="/dev/zero"), "leaves the artifact"),
    "path above": (lambda m: m["weights"].update(path="onnx/../../a"), "leaves the artifact"),
    "path in two ways": (lambda m: m["weights"].update(path="onnx//a"), "path 'onnx//a', expected one such as"),
    "path of Windows": (lambda m: m["weights"].update(path="onnx\\a"), "expected one such as"),
    "path of Finder's folder": (lambda m: m["weights"].update(path="onnx/.DS_Store"), "expected one such as"),
    "path of Finder's note": (lambda m: m["weights"].update(path="onnx/._a"), "expected one such as"),
    "path with NUL": (lambda m: m["weights"].update(path="a\0b"), "path 'a.x00b'"),
    "path of a writer": (lambda m: m["weights"].update(path="onnx/.tmp-a"), "expected one such as"),
    "nested 200 deep": (lambda m: m.update(provenance={"a": _nested(200)}), "nested more than 32 levels"),
}


@pytest.mark.parametrize(("damage", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_anything_else_is_an_error_that_names_file_and_key(
    damage: Callable[[dict[str, Any]], object], message: str
) -> None:
    body = json.loads(_manifest().to_json())
    body.pop("digest")
    damage(body)
    with pytest.raises(ArtifactError, match=f"folder/manifest.json.*{message}"):
        Manifest.from_json(seal(body), "folder/manifest.json")


NOT_JSON = {
    "empty": (b"", "not valid JSON"),
    "cut": (b"{", "not valid JSON"),
    "list": (b"[]", "expected an object, got list"),
    "binary": (b"\xff\xfe", "not valid JSON"),
    "a key that comes twice": (b'{"schema": 1, "schema": 2}', "not valid JSON .the key 'schema' comes twice"),
    "nested 1,000 deep": (b'{"a": ' + b"[" * 1000 + b"]" * 1000 + b"}", "nested more than 32 levels"),
    "nested a million deep": (b"[" * 10**6, "nested more than 32 levels"),
    "a number of 10,000 digits": (b'{"schema": ' + b"9" * 10_000 + b"}", ""),
}


@pytest.mark.parametrize(("data", "message"), NOT_JSON.values(), ids=NOT_JSON.keys())
def test_what_is_no_json_object_is_an_error(data: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=f"m: {message}"):
        Manifest.from_json(data, "m")


def test_every_flipped_bit_is_an_error() -> None:
    data = _manifest().to_json()
    for position, bit in itertools.product(range(len(data)), range(8)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << bit
        with pytest.raises(ArtifactError, match="m: "):
            Manifest.from_json(bytes(damaged), "m")


def test_schema_1_has_no_digest_and_is_read() -> None:
    body = json.loads(_manifest().to_json()) | {"schema": 1}
    with pytest.raises(ArtifactError, match="unknown key 'digest'"):
        Manifest.from_json(json.dumps(body).encode(), "m")
    del body["digest"]
    assert Manifest.from_json(json.dumps(body, indent=2).encode(), "m") == _manifest()


def test_what_is_as_large_as_it_may_be_is_read() -> None:
    files = {
        size: StoredFile("a/" + "b" * (size - 2), LARGEST_FILE, "0" * 64) for size in (LARGEST_PATH, LARGEST_PATH + 1)
    }
    form = CompiledFile(
        files[LARGEST_PATH], "onnx", "fp32", 0.0, batch_sizes=(LARGEST_BATCH,) * MOST_BATCH_SIZES, details={}
    )
    provenance = {"a": _nested(DEEPEST_JSON - 3)}
    manifest = dataclasses.replace(_manifest(), provenance=provenance, compiled=(form,) * MOST_COMPILED)
    assert Manifest.from_json(manifest.to_json(), "m") == manifest
    with pytest.raises(ArtifactError, match=r"m: weights: path 'a/b+', expected one such as"):
        Manifest.from_json(dataclasses.replace(_manifest(), weights=files[LARGEST_PATH + 1]).to_json(), "m")


def test_the_largest_manifest_is_written_and_read() -> None:
    room = LARGEST_MANIFEST - len(dataclasses.replace(_manifest(), provenance={"a": ""}).to_json())
    manifest = dataclasses.replace(_manifest(), provenance={"a": "x" * room})
    data = manifest.to_json()
    assert len(data) == LARGEST_MANIFEST
    assert Manifest.from_json(data, "m") == manifest
    with pytest.raises(InvalidInput, match=f"has {LARGEST_MANIFEST + 1:,} bytes, expected at most"):
        dataclasses.replace(manifest, created=manifest.created + "0").to_json()


def test_a_reader_of_the_first_lines_sees_the_schema_and_the_architecture() -> None:
    assert list(json.loads(_manifest().to_json())) == [
        *("schema", "architecture", "config", "created", "weights", "fingerprint", "provenance", "compiled", "digest")
    ]


def test_a_manifest_without_a_list_of_forms_has_none() -> None:
    body = json.loads(_manifest().to_json())
    del body["digest"], body["compiled"]
    assert Manifest.from_json(seal(body), "m") == dataclasses.replace(_manifest(), compiled=())


def test_a_manifest_is_json_for_readers_in_other_languages() -> None:
    """Which know neither NaN nor Infinity; a checkpoint may have stored either."""
    metrics = {"val_cosine": float("nan"), "losses": [float("inf"), (0.5, -float("inf"))]}
    data = dataclasses.replace(_manifest(), provenance={"metrics": metrics}).to_json()

    def refuse(word: str) -> None:
        raise AssertionError(word)

    json.loads(data, parse_constant=refuse)
    assert Manifest.from_json(data, "m").provenance == {"metrics": {"val_cosine": None, "losses": [None, [0.5, None]]}}


def test_a_manifest_that_could_not_be_read_is_not_written() -> None:
    deep = dataclasses.replace(_manifest(), provenance={"a": _nested(100)})
    with pytest.raises(ArtifactError, match=r"^the manifest: nested more than"):
        deep.to_json()
    large = dataclasses.replace(_manifest(), provenance={"a": "x" * LARGEST_MANIFEST})
    with pytest.raises(InvalidInput, match="expected at most"):
        large.to_json()


def test_an_unknown_precision_cannot_be_listed() -> None:
    with pytest.raises(InvalidInput, match="precision is 'fp8'"):
        CompiledFile(FILE, "onnx", "fp8", 0.0)
