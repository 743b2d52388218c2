"""The two limits of the machine: how fast any installed library multiplies matrices, and how fast it reads memory.

Data sheets promise more than software reaches, so the limits are what numpy, torch, onnxruntime and OpenVINO
reach on square products in this run; for integers, also what the native engine's kernel multiplies in registers. A
model cannot be much faster than the faster of `multiply-adds / product rate` and `weight bytes / read bandwidth` allow
(the roofline).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.limits.products import Key, cpu_products, device_products
from benchmarks.limits.registers import integer_limit
from lvm_runtime.selection.timing import Timing, interleave
from lvm_runtime.system.cpus import usable_cpus

MIB = 2**20

HOPELESS = 5.0
"""Bursts that one product may take and still be timed more than once. What a CPU has no instructions for (bf16,
int8 in torch) takes seconds, and is no ceiling."""


@dataclass(frozen=True, slots=True)
class Product:
    """Best rate of one precision on one device, in 10⁹ multiply-adds per second, and which library reached it."""

    device: str
    precision: str
    giga_macs_per_second: float
    library: str
    others: dict[str, float]


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Best rate, in 10⁹ bytes per second, of reading `bytes` again and again; small ones come from a cache."""

    bytes: int
    giga_bytes_per_second: float
    library: str


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What this machine reached in this run."""

    products: tuple[Product, ...]
    bandwidths: tuple[Bandwidth, ...]

    def product_rate(self, device: str, precision: str) -> float | None:
        """Return the best multiply-adds per second, or None where nothing was measured."""
        found = (p for p in self.products if (p.device, p.precision) == (device, precision))
        return next((p.giga_macs_per_second * 1e9 for p in found), None)

    def bandwidth(self, size: int) -> float:
        """Return the best bytes per second for reading `size` bytes: of the next larger size that was measured."""
        larger = [b for b in self.bandwidths if b.bytes >= size] or [self.bandwidths[-1]]
        return larger[0].giga_bytes_per_second * 1e9

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def measure(widths: tuple[int, ...], rounds: int = 5, seconds: float = 0.03) -> Ceilings:
    """Measure both limits, the product rate as the best over square matrices of these widths."""
    by_kind: dict[tuple[str, str], dict[str, float]] = {}
    for width in widths:
        for (device, precision, library), rate in _product_rates(width, rounds, seconds).items():
            rates = by_kind.setdefault((device, precision), {})
            rates[library] = max(rate, rates.get(library, 0.0))
    if limit := integer_limit(rounds, seconds):
        by_kind.setdefault(("cpu", "int8"), {}).update(limit)
    sizes = (2, 8, 32, 128, 512) if max(widths) >= 512 else (2, 8)  # MiB: a small model's weights to beyond any cache
    return Ceilings(_best(by_kind), tuple(_bandwidth(n * MIB, rounds, seconds) for n in sizes))


def _product_rates(width: int, rounds: int, seconds: float) -> dict[Key, float]:
    sides = {**cpu_products(width), **device_products(width)}
    best = {key: min(once.calls) for key, once in _race(sides, 1, 0.0).items()}
    limit = max(HOPELESS * seconds, min(best.values()))
    rivals = {key: call for key, call in sides.items() if best[key] <= limit}
    best |= {key: min(timed.round_medians) for key, timed in _race(rivals, rounds, seconds).items()}
    return {key: width**3 / seconds / 1e9 for key, seconds in best.items()}


def _race(sides: dict[Key, Callable[[], Any]], rounds: int, seconds: float) -> dict[Key, Timing]:
    timed = interleave({" ".join(key): call for key, call in sides.items()}, rounds=rounds, seconds=seconds)
    return {key: timed[" ".join(key)] for key in sides}


def _best(by_kind: dict[tuple[str, str], dict[str, float]]) -> tuple[Product, ...]:
    return tuple(
        Product(device, precision, max(rates.values()), max(rates, key=lambda name: rates[name]), rates)
        for (device, precision), rates in by_kind.items()
    )


def _bandwidth(size: int, rounds: int, seconds: float) -> Bandwidth:
    sides = _readers(np.ones(size // 4, np.float32))
    timed = interleave(sides, rounds=rounds, seconds=seconds)
    rates = {library: size / min(t.round_medians) / 1e9 for library, t in timed.items()}
    best = max(rates, key=lambda name: rates[name])
    return Bandwidth(size, rates[best], best)


def _readers(array: Any) -> dict[str, Callable[[], Any]]:
    """Return ways to read every byte of `array` once, as products with a vector and as sums."""
    matrix, vector = array.reshape(-1, 1024), np.ones(1024, np.float32)
    sides: dict[str, Callable[[], Any]] = {"numpy": partial(np.dot, matrix, vector)}
    if find_spec("torch"):
        import torch

        torch.set_num_threads(usable_cpus())
        tensor = torch.from_numpy(array)
        sides["torch sum"] = partial(torch.sum, tensor)
        sides["torch mv"] = partial(torch.mv, tensor.view(-1, 1024), torch.from_numpy(vector))
    return sides
