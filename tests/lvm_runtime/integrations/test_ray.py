"""On a cluster that loses a node and gains one, no row is lost or doubled, and each is what one machine computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from lvm_runtime import LvmError, Predictor, predict_file
from lvm_runtime.integrations.ray import predict
from tests.artifacts import some_contexts
from tests.lvm_runtime.bulk.test_bulk import _save

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(("address", "asked"), [(None, "local"), ("auto", "auto"), ("10.0.0.1:6379", "10.0.0.1:6379")])
def test_without_an_address_ray_runs_on_this_machine_alone(
    address: str | None, asked: str, small_artifacts: Callable[[str], Path], tmp_path: Path, monkeypatch: Any
) -> None:
    """Ray itself takes no address for any cluster that it finds, here or in RAY_ADDRESS."""
    np.save(tmp_path / "in.npy", some_contexts(1, length=20)[0])

    def init(*, address: str, **_: Any) -> None:
        raise LvmError(f"the cluster is {address}")

    stub = SimpleNamespace(is_initialized=lambda: False, init=init)
    monkeypatch.setattr("lvm_runtime.integrations.ray.require", lambda *_: stub)
    with pytest.raises(LvmError, match=f"the cluster is {asked}"):
        predict(tmp_path / "in.npy", small_artifacts("amn"), tmp_path / "out", address=address)


@pytest.mark.soak
@pytest.mark.skipif(find_spec("ray") is None, reason="needs ray: pip install -e '.[ray]'")
@pytest.mark.parametrize("seed", range(2))
def test_a_node_is_killed_and_one_joins(small_artifacts: Callable[[str], Path], tmp_path: Path, seed: int) -> None:
    vectors, ids = some_contexts(1, length=100_000)[0], np.repeat(np.arange(250), 400)
    source = _save(tmp_path / "in.parquet", vectors=vectors, doc_ids=ids)
    parquet.write_table(parquet.read_table(source), source, row_group_size=5000)
    script = [sys.executable, str(Path(__file__).with_name("cluster.py")), str(tmp_path)]
    command = " ".join(["ip link set lo up;", *script, str(small_artifacts("amn")), str(seed)])
    options = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(
        ["unshare", "--net", "bash", "-c", command],  # Ray listens on every address that there is
        env=os.environ | options | {"RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=540,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"predictions {250 * 396}, nodes 3" in done.stdout, done.stderr
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    tables = [parquet.read_table(tmp_path / "out" / part["file"]) for part in manifest["parts"]]
    with Predictor(small_artifacts("amn"), threads=1) as predictor:
        predict_file(predictor, source, tmp_path / "whole.npz", progress=False)
    whole = np.load(tmp_path / "whole.npz")
    np.testing.assert_array_equal(np.concatenate([table["row"].to_numpy() for table in tables]), whole["rows"])
    found = np.concatenate([np.stack(table["prediction"].to_numpy()) for table in tables])
    np.testing.assert_array_equal(found, whole["predictions"])
