"""Where Core ML means to run each operation of a package, read from its `MLComputePlan` and summed up.

Only attributes are read, so that it works on anything that has those of a plan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lvm_runtime.errors import counted

ENOUGH = 0.99
"""Share of the cost that has to be on the device that was asked for."""
DEVICES = {"MLNeuralEngineComputeDevice": "ane", "MLGPUComputeDevice": "gpu", "MLCPUComputeDevice": "cpu"}


@dataclass(frozen=True, slots=True)
class Placement:
    """One operation: its type and name, the device Core ML prefers, those it could use, its share of the cost."""

    type: str
    name: str
    preferred: str
    supported: tuple[str, ...]
    cost: float


def read_placements(plan: Any, function: str) -> list[Placement]:
    """Return the placements of one function of an `MLComputePlan`; constants have no device and are left out."""
    block = plan.model_structure.program.functions[function].block
    placements = []
    for operation in _operations(block):
        usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
        if usage is None:
            continue
        cost = plan.get_estimated_cost_for_mlprogram_operation(operation)
        name = operation.outputs[0].name if operation.outputs else ""
        supported = tuple(_device(device) for device in usage.supported_compute_devices)
        preferred = _device(usage.preferred_compute_device)
        placements.append(Placement(operation.operator_name, name, preferred, supported, cost.weight if cost else 0.0))
    return placements


def shares(placements: Iterable[Placement]) -> dict[str, float]:
    """Return each device's share of the cost, largest first; of the operations, where no costs are known."""
    placements = list(placements)
    weigh = any(p.cost for p in placements)
    totals: Counter[str] = Counter()
    for placement in placements:
        totals[placement.preferred] += placement.cost if weigh else 1  # type: ignore[assignment]
    whole = sum(totals.values()) or 1
    return {device: total / whole for device, total in totals.most_common()}


def summarise(function: str, placements: Sequence[Placement], asked: str) -> str:
    """Return the report on one function: shares, a loud line if less than 99 % is where it was asked to be, and why.

    `asked` is ane, gpu, cpu or all; "all" leaves the choice to Core ML, so nothing is amiss then.
    """
    on = shares(placements)
    listed = ", ".join(f"{device} {share:.1%}" for device, share in on.items()) or "nothing to run"
    lines = [f"{function}: {counted(len(placements), 'operation')}; share of the estimated cost: {listed}"]
    if asked != "all" and on.get(asked, 0.0) < ENOUGH:
        lines.append(
            f"!!! {function}: {asked} WAS ASKED FOR AND GETS {on.get(asked, 0.0):.1%} of the cost, "
            f"less than {ENOUGH:.0%}. These operations are elsewhere:"
        )
        elsewhere = [p for p in placements if p.preferred != asked]
        kinds = Counter((p.type, p.preferred, asked in p.supported) for p in elsewhere)
        for (kind, device, able), count in kinds.items():
            reason = f"{asked} could take it; Core ML prefers {device}" if able else f"{asked} cannot take it"
            lines.append(f"      {count:4d} x {kind} on {device}: {reason}")
    return "\n".join(lines)


def _operations(block: Any) -> Iterator[Any]:
    for operation in block.operations:
        yield operation
        for nested in operation.blocks or ():
            yield from _operations(nested)


def _device(device: Any) -> str:
    name = type(device).__name__
    return DEVICES.get(name, name)
