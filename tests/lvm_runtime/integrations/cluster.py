"""Predict on a cluster of two nodes, of which one is killed while another joins: run as a script, in its own network.

Arguments: folder with `in.parquet`, and `bad.npy` of which a row is NaN; artifact; seed of the moment. Prints how many
predictions there are, how many nodes lived at the end, and what is said of the bad row.
"""

from __future__ import annotations

import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from lvm_runtime import InvalidInput
from lvm_runtime.integrations.ray import predict


def main() -> None:
    """Run."""
    folder, artifact, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    limits = {"object_store_memory": 100 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **limits})
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=100 << 20) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    out = folder / "out"

    with ThreadPoolExecutor(1) as pool:  # Ray starts a node in the main thread only
        running = pool.submit(predict, folder / "in.parquet", artifact, out, rows=2000)
        moment = random.Random(seed).randrange(1, 40)
        while len(list(out.glob("*.parquet"))) < moment and not running.done():
            time.sleep(0.01)
        cluster.remove_node(nodes[seed % 2], allow_graceful=False)
        cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
        result = running.result()
    end = time.monotonic() + 60  # in which the head has to notice that a node is gone
    while (alive := sum(node["Alive"] for node in ray.nodes())) > len(nodes) + 1 and time.monotonic() < end:
        time.sleep(0.1)
    print(f"predictions {result.predictions}, nodes {alive}", flush=True)
    try:
        predict(folder / "bad.npy", artifact, folder / "of bad")
    except InvalidInput as error:
        print(f"refused: {error}", flush=True)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
