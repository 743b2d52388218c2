"""ONNX files refer to nothing outside themselves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from lvm_runtime.backends.onnx import OnnxBackend
from lvm_runtime.backends.onnx_file import refuse_external_data
from lvm_runtime.backends.openvino import OpenVinoBackend
from lvm_runtime.errors import ArtifactError


@pytest.mark.parametrize("place", ["weights.data", "../outside.data", ".tmp-x/weights.data"])
@pytest.mark.parametrize("backend", [OnnxBackend, OpenVinoBackend], ids=["onnx", "openvino"])
def test_weights_in_another_file_are_refused(
    place: str, backend: type, small_artifacts: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "onnx"
    folder.mkdir()
    model = onnx.load(small_artifacts("amn") / "onnx/fp32.onnx")
    (folder / place).parent.mkdir(exist_ok=True)
    onnx.external_data_helper.convert_model_to_external_data(model, location="weights.data", size_threshold=0)
    onnx.save(model, folder / "fp32.onnx")
    if place != "weights.data":
        shutil.move(folder / "weights.data", folder / place)
        model = onnx.load(folder / "fp32.onnx", load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                entry.value = place if entry.key == "location" else entry.value
        onnx.save_model(model, folder / "fp32.onnx")
    with pytest.raises(ArtifactError, match="keeps weights in another file"):
        backend(folder / "fp32.onnx", threads=1)


@pytest.mark.parametrize("change", ["text after the end", "a group", "a long number", "cut"])
def test_the_key_is_found_in_files_that_readers_could_take_differently(
    change: str, small_artifacts: Callable[[str], Path], tmp_path: Path
) -> None:
    data = (small_artifacts("amn") / "onnx/fp32.onnx").read_bytes()
    hidden = b"\x0a\x08location"
    after = {"a group": b"\x0b" + hidden, "a long number": b"\xff" * 11 + hidden}.get(change, hidden)
    (tmp_path / "f.onnx").write_bytes(data[: 100 if change == "cut" else None] + after)
    with pytest.raises(ArtifactError, match=r"f\.onnx: keeps weights"):
        refuse_external_data(tmp_path / "f.onnx")


def test_only_raw_data_of_weights_may_hold_the_bytes(tmp_path: Path) -> None:
    def write(name: str, values: bytes) -> Path:
        weights = onnx.TensorProto(name=name, raw_data=values, data_type=onnx.TensorProto.INT8, dims=[len(values)])
        graph = onnx.helper.make_graph([], "g", [], [], [weights])
        onnx.save(onnx.helper.make_model(graph), tmp_path / "f.onnx")
        return tmp_path / "f.onnx"

    refuse_external_data(write("w", b"location" * 9))
    with pytest.raises(ArtifactError, match="keeps weights"):
        refuse_external_data(write("location", b""))


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "f.onnx").touch()
    with pytest.raises(ArtifactError, match=r"f\.onnx: is empty"):
        refuse_external_data(tmp_path / "f.onnx")
