"""On a cluster that loses a node and gains one, no row is lost or doubled, and each is what one machine computes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from lvm_runtime import ArtifactError, InvalidInput, LvmError, Predictor, Request, predict_file
from lvm_runtime.bulk.parts import plan
from lvm_runtime.commands.main import main
from lvm_runtime.integrations.ray import _cause, _result, _Worker, predict
from tests.artifacts import some_contexts
from tests.lvm_runtime.bulk.test_bulk import _save

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(("address", "asked"), [(None, "local"), ("auto", "auto"), ("of a head", "127.0.0.1:{}")])
def test_without_an_address_ray_runs_on_this_machine_alone(
    address: str | None, asked: str, small_artifacts: Callable[[str], Path], tmp_path: Path, monkeypatch: Any
) -> None:
    """Ray itself takes no address for any cluster that it finds, here or in RAY_ADDRESS."""
    np.save(tmp_path / "in.npy", some_contexts(1, length=20)[0])

    def init(*, address: str, **_: Any) -> None:
        raise LvmError(f"the cluster is {address}")

    stub = SimpleNamespace(is_initialized=lambda: False, init=init)
    monkeypatch.setattr("lvm_runtime.integrations.ray.require", lambda *_: stub)
    with socket.create_server(("127.0.0.1", 0)) as head:
        asked = asked.format(head.getsockname()[1])
        with pytest.raises(LvmError, match=f"the cluster is {asked}"):
            predict(tmp_path / "in.npy", small_artifacts("amn"), tmp_path / "out", address=address and asked)


def _lost(**_: Any) -> None:
    raise ConnectionError("Could not find any running Ray instance")


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("10.0.0.1", "the address is '10.0.0.1', expected HOST:PORT, such as"),
        ("http://10.0.0.1:8265", "the address is 'http://10.0.0.1:8265', expected HOST:PORT, such as"),
        ("127.0.0.1:1", r"no Ray cluster is found at 127.0.0.1:1 \(.*refused\); start one with `ray start --head`"),
        ("ray://[::1]:99999", r"no Ray cluster is found at ray://\[::1\]:99999 \(.*\); start one with"),
        ("x" * 64 + ":1", "no Ray cluster is found at x+:1"),
        ("auto", r"no Ray cluster is found at auto \(Could not find any running Ray instance\); start one with"),
    ],
)
def test_an_address_of_no_cluster_is_an_error_at_once(
    address: str, says: str, small_artifacts: Callable[[str], Path], tmp_path: Path, monkeypatch: Any
) -> None:
    """Ray itself tries for minutes, and prints a traceback for what is no address."""
    np.save(tmp_path / "in.npy", some_contexts(1, length=20)[0])
    stub = SimpleNamespace(is_initialized=lambda: False, init=_lost)
    monkeypatch.setattr("lvm_runtime.integrations.ray.require", lambda *_: stub)
    with pytest.raises(LvmError, match=says):
        predict(tmp_path / "in.npy", small_artifacts("amn"), tmp_path / "out", address=address)


KILLED = """
import os, signal, sys
from pathlib import Path
import lvm_runtime.integrations.ray as integration
from tests.lvm_runtime.integrations.test_ray import answer

integration.write_part = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
print(answer(*map(Path, sys.argv[1:]))["failure"][1])
"""


def test_what_ends_every_worker_is_named_and_not_tried_for_ever(
    small_artifacts: Callable[[str], Path], tmp_path: Path
) -> None:
    np.save(tmp_path / "in.npy", some_contexts(1, length=20)[0])
    arguments = [str(tmp_path / "in.npy"), str(small_artifacts("amn")), str(tmp_path / "out")]
    run = partial(subprocess.run, [sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = 0
    while (done := run(env=environment)).returncode == -signal.SIGKILL:
        ended += 1
        assert ended < 20
    assert done.stdout.startswith(f"{tmp_path}/in.npy: {ended} workers ended at the rows 0 to 19, killed or"), done
    assert list((tmp_path / "out").iterdir()) == []


def answer(source: Path, artifact: Path, out: Path, request: Request | None = None) -> dict[str, Any]:
    """Return what a worker answers for the first part of a file."""
    part = plan([source])[0]
    out.mkdir(exist_ok=True)
    worker = _Worker(artifact, request or Request(), 1, out, False)
    row = worker({name: np.array([value]) for name, value in asdict(part).items()})
    return {name: values[0] for name, values in row.items()}


def test_an_error_of_a_worker_is_what_it_says(small_artifacts: Callable[[str], Path], tmp_path: Path) -> None:
    """Ray hands on neither the type of an error nor what caused it."""
    vectors = some_contexts(1, length=20)[0]
    np.save(tmp_path / "good.npy", vectors)
    vectors[7, 3] = np.nan
    np.save(tmp_path / "bad.npy", vectors)
    good, bad, artifact = tmp_path / "good.npy", tmp_path / "bad.npy", small_artifacts("amn")
    assert _result(answer(good, artifact, tmp_path / "out")).predictions == 16
    row = answer(bad, artifact, tmp_path / "of bad")
    with pytest.raises(InvalidInput, match=r"^\S*bad.npy: row 7, component 3 is nan; .*; give --skip-bad "):
        _result(row)
    row = answer(good, artifact, tmp_path / "of int8", Request(precision="int8"))
    with pytest.raises(ArtifactError, match="has no int8 form"):
        _result(row)


@pytest.mark.parametrize(
    ("error", "says"),
    [(PermissionError(13, "No permission", "there"), "No permission: 'there'"), (MemoryError(), "MemoryError")],
)
def test_an_error_of_the_system_is_told_with_its_part(
    error: Exception, says: str, small_artifacts: Callable[[str], Path], tmp_path: Path, monkeypatch: Any
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("lvm_runtime.integrations.ray.write_part", fail)
    np.save(tmp_path / "in.npy", some_contexts(1, length=20)[0])
    row = answer(tmp_path / "in.npy", small_artifacts("amn"), tmp_path / "out")
    with pytest.raises(LvmError, match=rf"^a worker failed at in-\S+\.parquet: .*{says}$"):
        _result(row)


RAISED = """ray::MapWorker.submit() (pid=1)
  File "ray.py", line 1, in __call__
KeyError: 'x'

The above exception was the direct cause of the following exception:

UserCodeException: UDF failed to process a data block.
To change retry attempts, configure `ray.data.DataContext`."""


@pytest.mark.parametrize(("text", "says"), [(RAISED, "KeyError: 'x'"), ("", "RuntimeError"), ("\n", "RuntimeError")])
def test_an_error_of_the_cluster_is_one_line(text: str, says: str) -> None:
    assert str(_cause(RuntimeError(text))) == f"the cluster failed: {says}"


@pytest.mark.parametrize(
    ("given", "says"), [({"cpus": 3}, "cpus is 3 .* has 2$"), ({"gpus": 0.5}, "gpus is 0.5 .* 0$")]
)
def test_a_worker_that_this_machine_has_no_room_for_is_not_waited_for(
    given: Any, says: str, small_artifacts: Callable[[str], Path], tmp_path: Path, monkeypatch: Any
) -> None:
    np.save(tmp_path / "in.npy", some_contexts(1, length=20)[0])
    stub = SimpleNamespace(
        is_initialized=lambda: False, init=lambda **_: 0, shutdown=lambda: 0, cluster_resources=lambda: {"CPU": 2.0}
    )
    monkeypatch.setattr("lvm_runtime.integrations.ray.require", lambda *_: stub)
    with pytest.raises(InvalidInput, match=says):
        predict(tmp_path / "in.npy", small_artifacts("amn"), tmp_path / "out", **given)


@pytest.mark.parametrize(
    ("given", "says"), [({"cpus": 1.5}, "cpus is 1.5"), ({"gpus": -1}, "gpus is -1"), ({"gpus": np.nan}, "gpus is nan")]
)
def test_what_a_worker_gets_is_looked_at_before_a_cluster_is_asked(given: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=says):
        predict(tmp_path / "in.npy", tmp_path / "amn", tmp_path / "out", **given)


@pytest.mark.parametrize(
    ("drops", "again"),
    [([], "the same command"), (["--overwrite"], "the same command without --restart or --overwrite")],
)
def test_an_interrupted_run_says_that_it_can_go_on(
    small_artifacts: Callable[[str], Path], tmp_path: Path, monkeypatch: Any, capsys: Any, drops: list[str], again: str
) -> None:
    def predict(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lvm_runtime.integrations.ray.predict", predict)
    assert main(["predict", str(small_artifacts("amn")), "in.npy", str(tmp_path / "out"), "--ray", *drops]) == 130
    assert capsys.readouterr().err == f"what is done is kept; {again} goes on from there\ninterrupted\n"


@pytest.mark.soak
@pytest.mark.skipif(find_spec("ray") is None, reason="needs ray: pip install -e '.[ray]'")
@pytest.mark.parametrize("seed", range(2))
def test_a_node_is_killed_and_one_joins(small_artifacts: Callable[[str], Path], tmp_path: Path, seed: int) -> None:
    vectors, ids = some_contexts(1, length=100_000)[0], np.repeat(np.arange(250), 400)
    source = _save(tmp_path / "in.parquet", vectors=vectors, doc_ids=ids)
    parquet.write_table(parquet.read_table(source), source, row_group_size=5000)
    vectors[7, 3] = np.nan
    np.save(tmp_path / "bad.npy", vectors[:20])
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
    assert f"refused: {tmp_path}/bad.npy: row 7, component 3 is nan" in done.stdout, done.stderr
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    tables = [parquet.read_table(tmp_path / "out" / part["file"]) for part in manifest["parts"]]
    with Predictor(small_artifacts("amn"), threads=1) as predictor:
        predict_file(predictor, source, tmp_path / "whole.npz", progress=False)
    whole = np.load(tmp_path / "whole.npz")
    np.testing.assert_array_equal(np.concatenate([table["row"].to_numpy() for table in tables]), whole["rows"])
    found = np.concatenate([np.stack(table["prediction"].to_numpy()) for table in tables])
    np.testing.assert_array_equal(found, whole["predictions"])
