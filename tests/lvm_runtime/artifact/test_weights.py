"""The header of the weights against the config, without torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lvm_runtime.artifact.config import ARCHITECTURES, CONFIGS, make_config
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.artifact.limits import LARGEST_WEIGHTS_HEADER
from lvm_runtime.artifact.weights import check_header
from lvm_runtime.errors import ArtifactError
from lvm_runtime.models import build_model
from tests.artifacts import edit_manifest

CONFIG = make_config("lstm", dim=2, hidden_dim=2, num_layers=1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_shapes_are_those_of_the_models(architecture: str) -> None:
    for sizes in (CONFIGS[architecture].small, {"dim": 8, "hidden_dim": 8, "context_length": 3}):
        config = make_config(architecture, **sizes)
        expected = {name: tuple(weights.shape) for name, weights in build_model(config).state_dict().items()}
        assert dict(config.weight_shapes()) == expected


def _header() -> dict[str, Any]:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, shape in CONFIG.weight_shapes():
        end = start + 4 * (shape[0] * shape[1] if len(shape) == 2 else shape[0])
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
        start = end
    return header


def _write(path: Path, header: bytes, size: int = 216) -> Path:
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
    return path


@pytest.mark.parametrize("kind", ["as written", "without metadata", "in another order", "as long as it may be"])
def test_a_header_that_fits_passes(kind: str, tmp_path: Path) -> None:
    header = _header()
    if kind == "without metadata":
        del header["__metadata__"]
    elif kind == "in another order":
        header = dict(reversed(header.items()))
    data = json.dumps(header).encode()
    if kind == "as long as it may be":
        data = data.ljust(LARGEST_WEIGHTS_HEADER)
        with pytest.raises(ArtifactError, match=r"its header has 1,048,577 bytes, expected at most 1,048,576"):
            check_header(_write(tmp_path / "w", data + b" "), CONFIG)
    check_header(_write(tmp_path / "w", data), CONFIG)


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a tensor is missing": (lambda h: h.pop("output_proj.bias"), "do not end with the file"),
    "a tensor too many": (
        lambda h: h.update(x={"dtype": "F32", "shape": [1], "data_offsets": [216, 220]}),
        "do not end with the file",
    ),
    "another type": (lambda h: h["output_proj.bias"].update(dtype="F64"), "expected dtype F32"),
    "another shape": (lambda h: h["lstm.weight_ih_l0"].update(shape=[2, 8]), "has shape .2, 8., expected .8, 2."),
    "a shape of 10^9 rows": (lambda h: h["output_proj.bias"].update(shape=[10**9]), "do not fit each other"),
    "a shape of 0 rows": (
        lambda h: h["output_proj.bias"].update(shape=[0], data_offsets=[216, 216]),
        "do not fit each other",
    ),
    "a shape of five dimensions": (
        lambda h: h["output_proj.bias"].update(shape=[1, 1, 1, 1, 2]),
        "do not fit each other",
    ),
    "a negative shape": (lambda h: h["output_proj.bias"].update(shape=[-1, -2]), "do not fit each other"),
    "a shape in words": (lambda h: h["output_proj.bias"].update(shape="2"), "expected dtype F32, shape"),
    "an overlap": (lambda h: h["output_proj.bias"].update(data_offsets=[0, 8]), "gaps, overlap"),
    "offsets that run back": (lambda h: h["output_proj.bias"].update(data_offsets=[8, 0]), "do not fit each other"),
    "false for 0": (lambda h: h["lstm.weight_ih_l0"]["data_offsets"].__setitem__(0, False), "do not fit each other"),
    "an unknown key": (lambda h: h["output_proj.bias"].update(crc=1), "expected dtype F32"),
    "an entry of another type": (lambda h: h.update({"output_proj.bias": 3}), "expected dtype F32"),
}


@pytest.mark.parametrize(("damage", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_another_header_is_an_error(damage: Callable[[dict[str, Any]], object], message: str, tmp_path: Path) -> None:
    header = _header()
    damage(header)
    with pytest.raises(ArtifactError, match=message):
        check_header(_write(tmp_path / "w", json.dumps(header).encode()), CONFIG)


def test_a_tensor_that_the_config_has_not_is_named(tmp_path: Path) -> None:
    header = _header() | {"other.bias": {"dtype": "F32", "shape": [1], "data_offsets": [216, 220]}}
    with pytest.raises(ArtifactError, match=r"not the weights of this lstm: 'other\.bias' is not known"):
        check_header(_write(tmp_path / "w", json.dumps(header).encode(), 220), CONFIG)


@pytest.mark.parametrize("data", [b"", b"1234567", bytes(7), b"\xff" * 8, (10**8).to_bytes(8, "little") + b"{}"])
def test_a_header_of_absurd_size_is_not_read(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(data)
    with pytest.raises(ArtifactError, match=r"its header has .* bytes, expected at most"):
        check_header(tmp_path / "w", CONFIG)


def test_a_header_that_is_no_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=f"^{tmp_path}/w: header: not valid JSON"):
        check_header(_write(tmp_path / "w", b"{"), CONFIG)


def test_a_file_that_is_all_header_lacks_its_tensors(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"not the weights of this lstm: lstm\.weight_ih_l0 is missing$"):
        check_header(_write(tmp_path / "w", b"{}", 0), CONFIG)


@pytest.mark.parametrize(("key", "value"), [("hidden_dim", 13), ("hidden_dim", 10**9), ("context_length", 6)])
def test_a_config_that_was_changed_does_not_fit(
    key: str, value: int, small_artifacts: Callable[[str], Path], tmp_path: Path
) -> None:
    for file in ("model.safetensors", "fingerprint.npz"):
        (tmp_path / file).write_bytes((small_artifacts("amn") / file).read_bytes())
    (tmp_path / "manifest.json").write_bytes((small_artifacts("amn") / "manifest.json").read_bytes())
    edit_manifest(tmp_path, lambda m: (m["config"].update({key: value}), m.update(compiled=[])))
    with pytest.raises(ArtifactError, match=r"has shape|contexts of"):
        Artifact.load(tmp_path).read_fingerprint()
