"""Systems that lack calls of Linux: what is missing is done without, and serving works."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from lvm_runtime.system import files
from lvm_runtime.system.memory_maps import advise_sequential, release

ROOT = Path(__file__).parents[3]
WITHOUT = """
import asyncio  # Linux's own looks for sysconf as it is imported, from Python 3.12 on
import mmap, os, signal, sys
sys.modules["fcntl"] = None
sys.modules["resource"] = None
for module, names in ((os, "pwrite pread posix_fallocate sched_getaffinity fork sysconf O_DIRECTORY register_at_fork"),
                      (mmap, "MADV_DONTNEED MADV_SEQUENTIAL"), (signal, "SIGTERM SIGKILL")):
    for name in names.split():
        delattr(module, name)
whole = mmap.mmap
class Mapping(whole):
    @property
    def madvise(self):
        raise AttributeError("madvise")
mmap.mmap = Mapping
sync = os.fsync
def fsync(file):
    if os.path.isdir(f"/proc/self/fd/{file}"):
        raise PermissionError("folders cannot be flushed")
    sync(file)
os.fsync = fsync
"""


def run_without(script: str, *arguments: str, folder: Path, first: str = "") -> str:
    """Run a script in a Python that lacks these calls, but not for what `first` does, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", first + WITHOUT + script, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_serving_needs_none_of_them(small_artifacts: Callable[[str], Path], tmp_path: Path) -> None:
    script = """
import numpy as np
from lvm_runtime import Predictor, predict_file
np.save("in.npy", np.ones((3000, 5, 16), np.float32))
with Predictor(sys.argv[1]) as predictor, predictor.batcher() as batcher:
    answers = predictor.predict(np.load("in.npy", mmap_mode="r"))
    assert np.allclose(batcher.submit(np.ones((5, 16), np.float32)).result(), answers[0], atol=1e-6)
    assert predictor.predict_sequence(np.ones((3000, 16), np.float32)).shape == (2996, 16)
    predict_file(predictor, "in.npy", "out.npy", progress=False)
assert np.allclose(np.load("out.npy"), answers, atol=1e-6)
print(answers.shape)
"""
    assert run_without(script, str(small_artifacts("amn")), folder=tmp_path) == "(3000, 16)\n"


def test_training_and_writing_need_none_of_them(tmp_path: Path) -> None:
    script = """
from pathlib import Path
from train.options import TrainOptions
from train.run import train
from lvm_runtime.artifact.folder import Artifact
options = TrainOptions(model="amn", data="synthetic", windows=300, dim=16, epochs=1, device="cpu", out=Path("amn"),
                       sizes={"hidden_dim": 8})
artifact = train(options, lambda line: None).artifact
with artifact.adding("onnx/fp32.onnx") as path:
    path.write_bytes(b"some")
    artifact.commit(path, "onnx/fp32.onnx", format="onnx", precision="fp32", drift=0.0)
print(len(Artifact.load("amn").manifest.compiled))
"""

    assert run_without(script, folder=tmp_path, first="import torch") == "1\n"  # torch itself needs some of them here


@pytest.mark.parametrize("positional", [True, False], ids=["pwrite", "seek"])
def test_parts_are_written_where_they_belong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, positional: bool) -> None:
    if not positional:
        monkeypatch.delattr(os, "pwrite", raising=False)
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    with (tmp_path / "file").open("w+b", buffering=0) as file:
        files.claim(file.fileno(), 10)
        files.write_at(file.fileno(), memoryview(b"end"), 7)
        files.write_at(file.fileno(), memoryview(b"start"), 0)
    assert (tmp_path / "file").read_bytes() == b"start\0\0end"


def test_mappings_without_advice_are_left_alone() -> None:
    silent = SimpleNamespace()
    advise_sequential(silent)  # type: ignore[arg-type]
    release(silent)  # type: ignore[arg-type]
    with mmap.mmap(-1, mmap.PAGESIZE) as mapping:
        advise_sequential(mapping)
