"""Damaged and hostile artifacts: an ArtifactError, or a whole artifact, and nothing else.

The short versions run with the suite, the long ones with `make soak`; docs/reliability.md has their counts.
"""

from __future__ import annotations

import io
import json
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from export.forms import build_form
from export.torchscript import trace_form
from lvm_runtime.artifact.config import make_config
from lvm_runtime.artifact.fingerprint import Fingerprint
from lvm_runtime.artifact.manifest import CompiledFile, Manifest, StoredFile, seal
from lvm_runtime.artifact.weights import check_header
from lvm_runtime.backends.torchscript_file import checked_module
from lvm_runtime.errors import ArtifactError
from lvm_runtime.models import build_model
from tests.artifacts import randomised
from tests.fuzzing import damaged, exchanged, json_values, places, quick_settings
from train.foreign_checkpoint import read_checkpoint

FILE = StoredFile("a/b", 3, "0" * 64)
CONFIG = make_config("lstm", dim=2, hidden_dim=2, num_layers=1)
MANIFEST = Manifest(
    CONFIG,
    "2026-01-01",
    FILE,
    FILE,
    {"data": {"n": 1}, "metrics": [0.5, None]},
    (CompiledFile(FILE, "onnx", "int8", 2e-4, batch_sizes=(1, 8), details={"opset": 20}),),
).to_json()
BODY = json.loads(MANIFEST)
del BODY["digest"]
PROBES = Fingerprint(np.ones((2, 5, 2), np.float32), np.ones((2, 2))).to_bytes()
WEIGHTS = save(dict(build_model(CONFIG, seed=0).state_dict()))
LENGTH = int.from_bytes(WEIGHTS[:8], "little")
HEADER = json.loads(WEIGHTS[8 : 8 + LENGTH])

Check = Callable[[bytes, Path], object]


def _manifest(data: bytes, file: Path) -> None:
    Manifest.from_json(data, "m")
    assert data == MANIFEST


def _fingerprint(data: bytes, file: Path) -> None:
    probes = Fingerprint.from_bytes(data, "f")
    assert np.isfinite(probes.contexts).all()
    assert probes.contexts.nbytes <= len(data)


def _weights(data: bytes, file: Path) -> None:
    file.write_bytes(data)
    check_header(file, CONFIG)
    assert {name: tuple(t.shape) for name, t in load(data).items()} == {
        name: tuple(entry["shape"]) for name, entry in HEADER.items() if name != "__metadata__"
    }


def _checkpoint(data: bytes, file: Path) -> None:
    file.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reader warns of old formats
        assert isinstance(read_checkpoint(file)["model_state_dict"], dict)


def _torchscript(data: bytes, file: Path) -> None:
    file.write_bytes(data)
    checked_module(file)


def _checkpoint_bytes() -> bytes:
    buffer = io.BytesIO()
    state = {"model_type": "lstm", "model_config": {"input_dim": np.int64(2)}, "val_cosine": np.float32(0.5)}
    torch.save(state | {"model_state_dict": build_model(CONFIG, seed=0).state_dict()}, buffer)
    return buffer.getvalue()


def _torchscript_bytes(folder: Path) -> bytes:
    trace_form(build_form(randomised("amn")), folder / "traced.pt")
    return (folder / "traced.pt").read_bytes()


CASES: dict[str, tuple[Check, int, int]] = {
    "manifest": (_manifest, 1000, 100_000),
    "fingerprint": (_fingerprint, 500, 60_000),
    "weights": (_weights, 300, 40_000),
    "checkpoint": (_checkpoint, 100, 10_000),
    "torchscript": (_torchscript, 50, 5_000),
}


def _seed_bytes(name: str, folder: Path) -> bytes:
    if name == "checkpoint":
        return _checkpoint_bytes()
    if name == "torchscript":
        return _torchscript_bytes(folder)
    return {"manifest": MANIFEST, "fingerprint": PROBES, "weights": WEIGHTS}[name]


def _run(name: str, cases: int, seed: int, folder: Path) -> None:
    check, data, generator = CASES[name][0], _seed_bytes(name, folder), random.Random(seed)
    refused = 0
    for case in range(cases):
        bad = damaged(data, generator)
        try:
            check(bad, folder / "damaged")
        except ArtifactError:
            refused += 1
        except BaseException as error:
            raise AssertionError(f"{name}, seed {seed}, case {case}: {type(error).__name__}: {error}") from error
    assert refused > cases / 20
    print(f"{name}: {cases:,} damaged files, {refused:,} refused")


@pytest.mark.parametrize("name", CASES)
def test_random_damage_is_an_error_or_harmless(name: str, tmp_path: Path) -> None:
    _run(name, CASES[name][1], 1, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("name", CASES)
def test_much_random_damage_is_an_error_or_harmless(name: str, tmp_path: Path) -> None:
    _run(name, CASES[name][2], 2, tmp_path)


def _exchange_manifest(path: tuple[Any, ...], value: Any) -> None:
    try:
        manifest = Manifest.from_json(seal(exchanged(BODY, path, value)), "m")
    except ArtifactError:
        return
    assert Manifest.from_json(manifest.to_json(), "m").to_json() == manifest.to_json()


def _exchange_header(path: tuple[Any, ...], value: Any, file: Path) -> None:
    header = json.dumps(exchanged(HEADER, path, value)).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + WEIGHTS[8 + LENGTH :])
    try:
        check_header(file, CONFIG)
    except ArtifactError:
        return
    if path[0] != "__metadata__":  # which only the loader reads; it refuses other types itself
        load(file.read_bytes())


manifest_places = st.sampled_from(sorted(places(BODY), key=str))
header_places = st.sampled_from(sorted(places(HEADER), key=str))


@quick_settings(150)
@given(manifest_places, json_values)
def test_a_sealed_manifest_of_other_values(path: tuple[Any, ...], value: Any) -> None:
    _exchange_manifest(path, value)


@quick_settings(100)
@given(header_places, json_values)
def test_a_header_of_other_values(tmp_path: Path, path: tuple[Any, ...], value: Any) -> None:
    _exchange_header(path, value, tmp_path / "w")


@pytest.mark.soak
@quick_settings(5_000)
@given(manifest_places, json_values)
def test_many_sealed_manifests_of_other_values(path: tuple[Any, ...], value: Any) -> None:
    _exchange_manifest(path, value)


@pytest.mark.soak
@quick_settings(5_000)
@given(header_places, json_values)
def test_many_headers_of_other_values(tmp_path: Path, path: tuple[Any, ...], value: Any) -> None:
    _exchange_header(path, value, tmp_path / "w")
