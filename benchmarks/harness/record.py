"""What a result file says of one contender in one cell."""

from __future__ import annotations

from typing import Any

from benchmarks.harness.arena import Cell
from benchmarks.harness.contender import ANCHOR
from benchmarks.harness.workload import Workload
from benchmarks.limits.ceilings import Ceilings

BYTES_PER_WEIGHT = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


def cell_record(cell: Cell, ceilings: Ceilings, workload: Workload, name: str) -> dict[str, Any]:
    """Return the measured figures of contender `name` as JSON values.

    Times in milliseconds; `noise` is relative, between interleaved rounds; `cpus_busy_elsewhere` is the share of the
    CPUs that other programs took while the cell was timed; `speedup` holds how many times as fast
    it is as each other contender, from ratios within rounds, and `speedup_interval` the 95 % intervals of those to
    the anchor and to the best peer, which is the one that it is least ahead of. Shares are of the best rate that any
    library reached in this run, for the multiply-adds that are left after exact rewriting, whoever does more of them.
    """
    mine = cell.measured[name]
    timing = mine.timing
    peer = cell.closest_peer(name)
    config, macs = workload.artifact.config, workload.macs_rewritten
    weight_bytes = workload.parameters * BYTES_PER_WEIGHT[mine.contender.precision]
    shown = {ANCHOR} | ({peer} if peer else set())
    rate = ceilings.product_rate(mine.contender.device, mine.contender.precision)
    bound = None if rate is None else max(macs * mine.batch / rate, weight_bytes / ceilings.bandwidth(weight_bytes))
    return {
        "model": config.architecture,
        "contender": name,
        "ours": mine.contender.ours,
        "backend": mine.contender.backend,
        "precision": mine.contender.precision,
        "device": mine.contender.device,
        "threads": mine.threads,
        "batch": mine.batch,
        "dim": config.dim,
        "context_length": config.context_length,
        "predictions_per_second": mine.per_second,
        "milliseconds": {key: getattr(timing, key) * 1e3 for key in ("median", "p95", "p99")},
        "round_milliseconds": [seconds * 1e3 for seconds in timing.round_medians],
        "calls": len(timing.calls),
        "noise": timing.spread,
        "cpus_busy_elsewhere": cell.elsewhere,
        "drift": mine.drift,
        "macs_plain": config.multiply_adds(),
        "macs_rewritten": macs,
        "giga_macs_per_second": macs * mine.per_second / 1e9,
        "weight_bytes": weight_bytes,
        "share_of_product_ceiling": None if rate is None else macs * mine.per_second / rate,
        "share_of_roofline": None if bound is None else bound / timing.median,
        "speedup": {other: cell.speedup(name, other) for other in cell.measured if other != name},
        "speedup_interval": {other: cell.interval(name, other) for other in sorted(shown & set(cell.measured))},
        "best_peer_at_equal_precision": peer,
        "ratio_to_best_peer": cell.speedup(name, peer) if peer else None,
    }
