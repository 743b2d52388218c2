"""Time a file on clusters of one and of two nodes of one CPU, and with `lvm-runtime predict` on two CPUs, in turns.

    unshare --net bash -c "ip link set lo up; python tests/lvm_runtime/integrations/compare.py FILE ARTIFACT FOLDER"

Ray listens on every address that there is, hence the network of its own. A cluster is up, and without workers, before
its time is taken. FOLDER should be in memory: two nodes have a disk each, and here they would wait for the same one.
Prints seconds, and what two nodes and Ray are worth.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from lvm_runtime.integrations.ray import predict

ROUNDS = 2


def on_a_cluster(nodes: int, source: Path, artifact: str, out: Path) -> float:
    """Return the seconds of a run on so many nodes of one CPU."""
    limits = {"object_store_memory": 100 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **limits})
    for _ in range(nodes):
        cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        began = time.perf_counter()
        predict(source, artifact, out, rows=20_000)
        return time.perf_counter() - began
    finally:
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(out, ignore_errors=True)


def on_this_machine(source: Path, artifact: str, out: Path) -> float:
    """Return the seconds of `lvm-runtime predict`, start and all."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "lvm_runtime", "predict", artifact, source, out]
    cpus = set(sorted(os.sched_getaffinity(0))[:2])
    subprocess.run(command, check=True, capture_output=True, preexec_fn=lambda: os.sched_setaffinity(0, cpus))
    seconds = time.perf_counter() - began
    out.unlink()
    return seconds


def main() -> None:
    """Run."""
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    source, artifact, folder = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    for _ in range(ROUNDS):
        one, two = (on_a_cluster(nodes, source, artifact, folder / "parts") for nodes in (1, 2))
        alone = on_this_machine(source, artifact, folder / "whole.parquet")
        seconds = f"one node {one:.1f} s, two {two:.1f} s, lvm-runtime predict {alone:.1f} s"
        print(f"{seconds}: two nodes {one / two:.2f} x one, Ray {alone / two:.2f} x this machine", flush=True)


if __name__ == "__main__":
    main()
