"""Writers that are killed: the artifact is the old one or the new one, never half, and the next writer goes on."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lvm_runtime.artifact.folder import Artifact

WRITER = """
import json, sys
from pathlib import Path
import numpy as np
from lvm_runtime.artifact.config import make_config
from lvm_runtime.artifact.fingerprint import Fingerprint
from lvm_runtime.artifact.folder import Artifact

path, run = Path(sys.argv[1]), int(sys.argv[2])
config = make_config("lstm", dim=64, hidden_dim=64, num_layers=1)
print("ready", flush=True)
for n in range(10**9):
    header, start = {}, 0
    for name, shape in config.weight_shapes():
        end = start + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    weights = len(text).to_bytes(8, "little") + text + bytes([(run * 7 + n) % 251]) * start
    probes = Fingerprint(np.ones((2, 5, 64), np.float32), np.ones((2, 64)))
    artifact = Artifact.create(path, config, weights, probes, {"run": run, "n": n})
    for form in range(4):
        relative = ("onnx/a.onnx", "onnx/b.onnx", "onnx/a.onnx", "coreml/c.mlpackage")[form]
        with artifact.adding(relative) as temporary:
            if form == 3:
                temporary.mkdir()
                (temporary / "model").write_bytes(bytes([n % 251]) * 100_000)
            else:
                temporary.write_bytes(bytes([n % 251]) * 100_000)
            format = relative.partition("/")[0]
            artifact = artifact.commit(temporary, relative, format=format, precision="fp32", drift=0.0)
    Artifact.load(path)
"""


def _kill_writers(kills: int, folder: Path) -> None:
    generator = random.Random(0)
    path = folder / "artifact"
    forms: set[int] = set()
    for run in range(kills):
        command = [sys.executable, "-c", WRITER, str(path), str(run)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stderr is not None
            assert writer.stdout.readline() == b"ready\n"
            if run == 0:
                _wait_for(path)
            time.sleep(generator.uniform(0, 0.15))
            writer.send_signal(signal.SIGKILL)
            assert writer.stderr.read() == b""  # it went on where the last one was killed
        assert writer.returncode == -signal.SIGKILL
        artifact = Artifact.load(path)
        forms.add(len(artifact.manifest.compiled))
    if kills > 20:
        assert len(forms) > 1  # the kills came at different steps
    print(f"{kills} writers killed, with {sorted(forms)} forms listed")


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not (path / "manifest.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_few_kills(tmp_path: Path) -> None:
    _kill_writers(4, tmp_path)


@pytest.mark.soak
def test_150_kills(tmp_path: Path) -> None:
    _kill_writers(150, tmp_path)
