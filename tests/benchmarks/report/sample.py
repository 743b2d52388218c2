"""Entries of a result file, as a run of the benchmarks leaves them."""

from __future__ import annotations

from typing import Any

from benchmarks.harness.contender import ANCHOR

MACHINE = {
    "processor": "Testium <9000>",
    "features": ["avx2", "avx512_vnni"],
    "cpus": 2,
    "memory_gib": 8.0,
    "accelerators": [],
    "versions": {"onnxruntime": "1.32.0"},
}
SPEEDS = {"lvm-onnx-fp32": 26_900.0, "lvm-onnx-int8": 80_000.0, ANCHOR: 17_700.0, "peer-openvino-fp32": 20_000.0}
NATIVE = {"lvm-native-fp32": 35_400.0, "lvm-native-int8": 120_000.0}


def entry(contender: str, batch: int) -> dict[str, Any]:
    speed = (SPEEDS | NATIVE)[contender]
    precision = contender.rpartition("-")[2]
    peer = "peer-openvino-fp32" if precision == "fp32" else None
    record = {
        "suite": "latency" if batch == 1 else "throughput",
        "model": "amn",
        "contender": contender,
        "ours": contender.startswith("lvm"),
        "precision": precision,
        "device": "cpu",
        "threads": 2,
        "batch": batch,
        "predictions_per_second": speed,
        "milliseconds": {"median": 1e3 * batch / speed, "p95": 1.1e3 * batch / speed, "p99": 1.3e3 * batch / speed},
        "round_milliseconds": [
            1e3 * batch / speed * moment for moment in ((1.0, 1.0) if contender == ANCHOR else (0.98, 1.02))
        ],
        "noise": 0.031,
        "drift": 2e-13 if precision == "fp32" else 2e-4,
        "macs_rewritten": 1_515_008,
        "giga_macs_per_second": 1.515e-3 * speed,
        "weight_bytes": 6_000_000,
        "share_of_product_ceiling": 0.41,
        "share_of_roofline": 0.5,
        "speedup": {name: speed / other for name, other in SPEEDS.items() if name != contender},
        "speedup_interval": {
            ANCHOR: [0.99 * speed / SPEEDS[ANCHOR], 1.02 * speed / SPEEDS[ANCHOR]],
            "peer-openvino-fp32": [0.98 * speed / 20_000.0, 1.01 * speed / 20_000.0],
        },
        "cpus_busy_elsewhere": 0.3 if batch == 32 else 0.01,
        "best_peer_at_equal_precision": peer,
        "ratio_to_best_peer": speed / SPEEDS[peer] if peer else None,
    }
    return {"name": f"test[{contender}]", "extra_info": record, "stats": {"median": batch / speed}}
