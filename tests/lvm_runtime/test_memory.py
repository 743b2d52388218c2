"""Memory that stays flat however long the input is: through mappings, over documents, and from file to file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from tests.artifacts import make_artifact, some_contexts

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems take the hint when they please")

WAYS = ("contexts", "document", "file", "file.npz", "file.parquet")

RUN = """
import json, sys
import numpy as np
from lvm_runtime.bulk.predict import open_for_bulk, predict_file
from lvm_runtime.request import Request

def peak():  # getrusage would count what the parent held when it forked
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024

artifact, way, source, target = sys.argv[1:]
values = np.load(source, mmap_mode="r")
with open_for_bulk(artifact, Request(backend="onnx")) as p:
    if way.startswith("file"):
        source = source.replace(".npy", way[4:] or ".npy")
        np.save("first.npy", values[:5000])
        predict_file(p, source.replace("in", "first"), "first-out.npy", progress=False)
        before = peak()
        predict_file(p, source, target, progress=False)
    else:
        call = p.predict if way == "contexts" else p.predict_sequence
        count = len(values) - (0 if way == "contexts" else 4)
        out = np.lib.format.open_memmap(target, "w+", np.float32, (count, p.config.dim))
        call(values[:5000], out=out[: 5000 - len(values) + count])
        before = peak()
        call(values, out=out)
print(json.dumps([before, peak()]))
"""


def _peaks(artifact: Path, way: str, values: Any, folder: Path) -> tuple[float, float]:
    """Return the peak resident memory in MiB after 5,000 rows and after all `values`, which are saved to a file."""
    np.save(folder / "in.npy", values)
    for name, rows in (("first", values[:5000]), ("in", values)):
        if way == "file.npz":
            np.savez(folder / f"{name}.npz", contexts=rows)
        elif way == "file.parquet":
            flat = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.reshape(-1)), rows[0].size)
            parquet.write_table(pyarrow.table({"contexts": flat}), folder / f"{name}.parquet")  # one row group
    return _run(artifact, way, folder)


def _run(artifact: Path, way: str, folder: Path) -> tuple[float, float]:
    command = [sys.executable, "-c", RUN, str(artifact), way, "in.npy", "out.npy"]
    environment = {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, after = json.loads(done.stdout)
    return before, after


@pytest.mark.parametrize("way", WAYS)
def test_memory_does_not_grow_with_the_file(small_artifacts: Callable[[str], Path], tmp_path: Path, way: str) -> None:
    few = some_contexts(1000)
    shape = (-1, 16) if way == "document" else (-1, 5, 16)
    values = np.broadcast_to(few, (300, *few.shape)).reshape(shape)  # 96 MB in, 19 or 96 MB out
    before, after = _peaks(small_artifacts("amn"), way, values, tmp_path)
    assert after - before < 24


@pytest.mark.soak
@pytest.mark.parametrize("way", ["document", "file"])
def test_a_million_predictions_in_300_megabytes(tmp_path: Path, way: str) -> None:
    rows, block = 1_000_004, 8192
    artifact = make_artifact(tmp_path / "amn", dim=768, attention_dim=256, hidden_dim=512, bottleneck_dim=256)
    vectors = np.lib.format.open_memmap(tmp_path / "in.npy", "w+", np.float32, (rows, 768))  # 3 GB
    for start in range(0, rows, block):
        vectors[start : start + block] = some_contexts(1, 768, min(block, rows - start), seed=start)[0]
    del vectors
    before, after = _run(artifact.path, way, tmp_path)
    assert after < 300e6 / 2**20
    assert after - before < 48
    out = np.load(tmp_path / "out.npy", mmap_mode="r")
    assert out.shape == (1_000_000, 768)
    for start in range(0, len(out), block):
        np.testing.assert_allclose(np.linalg.norm(out[start : start + block], axis=1), 1, rtol=0, atol=1e-5)
