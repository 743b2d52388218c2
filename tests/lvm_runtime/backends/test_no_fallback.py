"""Device, precision and threads are those that were asked for; stand-ins do what runtimes do in silence."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import onnxruntime
import openvino
import pytest
import torch

import lvm_runtime.backends.openvino as openvino_backend
from export.forms import build_form
from export.native.export import write_native
from lvm_runtime import Predictor
from lvm_runtime.backends import backend_class
from lvm_runtime.backends.devices import _PRECISION, inference
from lvm_runtime.backends.native import NativeBackend
from lvm_runtime.backends.onnx import PROVIDERS, OnnxBackend
from lvm_runtime.backends.openvino import OpenVinoBackend
from lvm_runtime.errors import ArtifactError, BackendUnavailable
from lvm_runtime.system.cpus import usable_cpus
from tests.artifacts import randomised, some_contexts

Get = Callable[[str], Path]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Let onnxruntime have every provider and open nothing; return what it was asked for."""
    arguments: dict[str, Any] = {}

    def stop(path: str, settings: Any, **others: Any) -> Any:
        arguments.update(others, settings=settings)
        return SimpleNamespace(get_providers=lambda: [PROVIDERS["cpu"]])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(PROVIDERS.values()))
    monkeypatch.setattr(onnxruntime, "InferenceSession", stop)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: arguments.update(preloaded=True), raising=False)
    return arguments


@pytest.mark.parametrize(
    ("device", "options"),
    [("cuda", {"use_tf32": "0"}), ("coreml", {"ModelFormat": "MLProgram", "MLComputeUnits": "ALL"})],
)
def test_onnxruntime_runs_the_whole_graph_on_the_device(
    device: str, options: dict[str, str], asked: dict[str, Any], small_artifacts: Get
) -> None:
    with pytest.raises(BackendUnavailable, match=f"was asked for {device} and the session uses CPUExecutionProvider"):
        OnnxBackend(small_artifacts("amn") / "onnx/fp32.onnx", device=device)
    assert asked["providers"] == [(PROVIDERS[device], options)]
    assert asked["enable_fallback"] == 0
    assert asked.get("preloaded", False) == (device == "cuda"), "CUDA's packages lie where no loader looks"
    assert asked["settings"].get_session_config_entry("session.disable_cpu_ep_fallback") == "1"


EACH_KIND = hasattr(torch.backends, "fp32_precision")
"""Whether torch has a setting for each kind of operation: from 2.9 on."""


def _of_recurrent_layers() -> str:
    cudnn = torch.backends.cudnn
    return str(cudnn.rnn.fp32_precision) if EACH_KIND else "tf32" if cudnn.allow_tf32 else "none"


@pytest.fixture
def _tf32_as_it_was() -> Iterator[None]:
    yield
    if EACH_KIND:
        torch.backends.fp32_precision = torch.backends.cudnn.fp32_precision = "none"
    torch.backends.cudnn.allow_tf32 = True


@pytest.mark.usefixtures("_tf32_as_it_was")
@pytest.mark.parametrize(
    ("place", "setting", "value"),
    [
        ("cudnn", "allow_tf32", True),
        ("cudnn", "allow_tf32", False),
        *[
            ("cudnn.conv", "fp32_precision", "ieee"),
            ("cudnn.rnn", "fp32_precision", "ieee"),
            ("cudnn", "fp32_precision", "tf32"),
            ("", "fp32_precision", "tf32"),
        ][: None if EACH_KIND else 0],
    ],
    ids=lambda value: str(value) or "everything",
)
def test_torch_on_cuda_computes_no_recurrent_layer_in_tf32(place: str, setting: str, value: object) -> None:
    """However torch was told; and two runs at once leave behind what they found."""
    setattr(operator.attrgetter(place)(torch.backends) if place else torch.backends, setting, value)
    before, enabled = _of_recurrent_layers(), torch.backends.cudnn.enabled
    with inference("cuda", None):
        assert _of_recurrent_layers() in ("ieee", "none")
        _PRECISION.begin(torch, "cuda")  # as a run in another thread does, which ends after this one
        assert torch.backends.cudnn.enabled == enabled, "a run without cuDNN takes several times as long"
    assert _of_recurrent_layers() in ("ieee", "none")
    _PRECISION.end()
    assert _of_recurrent_layers() == before


def test_openvino_that_computes_in_another_precision_is_refused(
    small_artifacts: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = small_artifacts("amn") / "onnx/fp32.onnx"
    monkeypatch.setattr(openvino_backend, "has_bf16", lambda: False)
    with pytest.raises(BackendUnavailable, match="finds no bfloat16 arithmetic"):
        OpenVinoBackend(file, precision="bf16")
    monkeypatch.setattr(openvino_backend, "has_bf16", lambda: True)
    compiled = SimpleNamespace(get_property=lambda name: openvino.Type.f32)
    monkeypatch.setattr(openvino.Core, "compile_model", lambda *arguments: compiled)
    with pytest.raises(BackendUnavailable, match="was asked for bf16 and computes in f32"):
        OpenVinoBackend(file, precision="bf16")


def test_openvino_refuses_a_causal_attention_that_it_would_bar_weakly(small_artifacts: Get, tmp_path: Path) -> None:
    """As exports were until they said what to add to the score of a barred position."""
    model = onnx.load(small_artifacts("transformer") / "onnx/fp32.onnx")
    for node in model.graph.node:
        kept = [attribute for attribute in node.attribute if attribute.name != "mask_filter_value"]
        node.ClearField("attribute")
        node.attribute.extend(kept)
    onnx.save(model, tmp_path / "old.onnx")
    with pytest.raises(ArtifactError, match=r"old\.onnx: its causal attention .*; export it again"):
        backend_class("openvino")(tmp_path / "old.onnx")


def test_native_file_of_another_precision_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("lvm_runtime.native._engine", reason="the extension is not built")
    write_native(build_form(randomised("gru")), tmp_path / "int8.safetensors")
    with pytest.raises(ArtifactError, match="it says that it is int8, and it is listed or was asked for as fp32"):
        NativeBackend(tmp_path / "int8.safetensors", precision="fp32")


def test_both_forms_are_built_as_they_were_asked_for(small_artifacts: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[dict[str, Any]] = []
    build = OnnxBackend.__init__

    def recorded(self: OnnxBackend, source: Path, **options: Any) -> None:
        built.append(options)
        build(self, source, **options)

    monkeypatch.setattr(OnnxBackend, "__init__", recorded)
    wanted = {"device": "cpu", "threads": 1, "precision": "fp32"}
    with Predictor(small_artifacts("amn"), backend="onnx", **wanted) as predictor:
        predictor.predict_sequence(some_contexts(1, length=9)[0])
    assert built == [wanted, wanted]


def test_threads_that_are_asked_for_are_used(small_artifacts: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    path, threads = small_artifacts("amn"), usable_cpus() + 1
    onnx = OnnxBackend(path / "onnx/fp32.onnx", threads=threads)
    assert onnx._session.get_session_options().intra_op_num_threads == threads
    onnx.close()
    assert OpenVinoBackend(path / "onnx/fp32.onnx", threads=1)._model.get_property("INFERENCE_NUM_THREADS") == 1
    for name, source in (("eager", path), ("torchscript", path / "torchscript/fp32.pt")):
        backend: Any = backend_class(name)(source, threads=threads)
        call, seen = backend._call, list[int]()
        monkeypatch.setattr(backend, "_call", lambda *a, c=call, s=seen: (s.append(torch.get_num_threads()), c(*a))[1])
        backend.run(some_contexts(2))
        assert seen == [threads]


def test_native_engine_has_the_threads_that_are_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("lvm_runtime.native._engine", reason="the extension is not built")
    write_native(build_form(randomised("gru")), tmp_path / "int8.safetensors")
    backend = NativeBackend(tmp_path / "int8.safetensors", threads=usable_cpus() + 1)
    assert backend._engine.about["threads"] == usable_cpus() + 1
