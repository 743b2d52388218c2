"""TorchScript exports: verified, and free of this project's code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from export.source import Source
from export.torchscript import FILE, command, export_torchscript
from export.verify import make_samples
from lvm_runtime.artifact.config import ARCHITECTURES
from lvm_runtime.artifact.folder import Artifact
from lvm_runtime.errors import VerificationFailed
from lvm_runtime.models import save_model
from tests.artifacts import randomised


def make_source(architecture: str, folder: Path) -> Source:
    model = randomised(architecture, seed=4)
    return Source(save_model(model, folder / architecture), model)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_export_is_verified_and_listed(architecture: str, tmp_path: Path) -> None:
    source = make_source(architecture, tmp_path)
    artifact = export_torchscript(source, make_samples(source))
    (compiled,) = Artifact.load(artifact.path).find("torchscript")
    assert compiled.file.path == FILE
    assert compiled.drift <= 1e-10
    assert compiled.details["batch_change"] <= 1e-6


def test_file_needs_no_code_of_this_project(tmp_path: Path) -> None:
    source = make_source("amn", tmp_path)
    artifact = export_torchscript(source, make_samples(source))
    script = (
        "import sys, warnings; warnings.simplefilter('ignore'); import torch\n"
        f"prediction, attention = torch.jit.load({str(artifact.path / FILE)!r})(torch.ones(7, 5, 16))\n"
        "assert prediction.shape == (7, 16) and attention.shape == (7, 5)\n"
        "assert not {'lvm_runtime', 'export'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, timeout=120)


def test_wrong_export_leaves_no_file(tmp_path: Path) -> None:
    source = make_source("lstm", tmp_path)
    samples = make_samples(source)
    wrong = Source(source.artifact, randomised("lstm", seed=5))
    with pytest.raises(VerificationFailed, match="drift"):
        export_torchscript(wrong, samples)
    assert not (source.artifact.path / "torchscript").exists()
    assert not source.artifact.find("torchscript")


def test_command_prints_where_and_how_far_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_source("gru", tmp_path)
    assert command(["--model", str(source.artifact.path)]) == 0
    assert "torchscript/fp32.pt" in capsys.readouterr().out
    assert np.isfinite(Artifact.load(source.artifact.path).find("torchscript")[0].drift)
