"""`python -m export`: every format in one go, and a form that fails does not take the others with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.__main__ import command
from export.verify import DRIFT_LIMITS
from lvm_runtime.artifact.config import CONFIGS
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.errors import InvalidInput, VerificationFailed
from lvm_runtime.models import save_model
from tests.artifacts import randomised


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_model(randomised("amn"), tmp_path / "amn").path


def made(folder: Path) -> set[str]:
    return {c.file.path for c in Artifact.load(folder).manifest.compiled}


def test_a_format_can_be_chosen(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["--model", str(folder), "--format", "torchscript"]) == 0
    assert made(folder) == {"torchscript/fp32.pt"}
    assert f"{folder}/torchscript/fp32.pt: " in capsys.readouterr().out


def test_formats_that_cannot_be_made_here_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("export.__main__.makeable", lambda: ("torchscript",))
    assert command(["--model", str(folder)]) == 0
    assert "not all is here that they need: onnx, native, mlx, coreml, coreai;" in capsys.readouterr().err


def test_a_vector_size_is_for_untrained_weights(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="--dim 64 is for --untrained weights"):
        command(["--model", str(folder), "--dim", "64", "--format", "torchscript"])
    assert made(folder) == set()


def test_ctrl_c_while_coremltools_is_imported_ends_the_export(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("export.commandline.import_coremltools", interrupted)
    with pytest.raises(KeyboardInterrupt):
        command(["--model", str(folder), "--format", "coreml"])
    assert made(folder) == set()


def test_a_refused_form_is_named_and_the_others_are_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(DRIFT_LIMITS, "int8", 1e-12)
    with pytest.raises(VerificationFailed, match=r"onnx/int8\.onnx not made, for the reasons above"):
        command(["--model", str(folder), "--format", "torchscript", "--format", "onnx"])
    assert made(folder) == {"torchscript/fp32.pt", "onnx/fp32.onnx", "onnx/sequence-fp32.onnx"}
    assert "refused: onnx int8: largest drift" in capsys.readouterr().err


def test_a_form_that_cannot_hold_the_model_does_not_keep_the_others_from_being_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lvm_runtime.native._engine", reason="the extension is not built")
    sizes = CONFIGS["amn"].small | {"context_length": 65}
    folder = save_model(randomised("amn", **sizes), tmp_path / "amn").path
    with pytest.raises(VerificationFailed, match=r"native/fp32\.safetensors.* not made, for the reasons above"):
        command(["--model", str(folder), "--format", "native", "--format", "torchscript"])
    assert made(folder) == {"torchscript/fp32.pt"}
    assert "refused: native takes at most 64 vectors" in capsys.readouterr().err
