"""What a Core ML compute plan says of the devices that operations run on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from lvm_runtime.coreml.placement import Placement, read_placements, shares, summarise


def placement(kind: str, preferred: str, supported: tuple[str, ...], cost: float) -> Placement:
    """Return a placement with a name made of its type."""
    return Placement(kind, f"{kind}_0", preferred, supported, cost)


def test_summary_is_quiet_on_the_engine_and_loud_off_it() -> None:
    conv = placement("conv", "ane", ("cpu", "gpu", "ane"), 0.6)
    good = summarise("batch1", [conv, placement("gelu", "ane", ("ane",), 0.4)], "ane")
    assert "ane 100.0%" in good
    assert "!!!" not in good
    bad = summarise(
        "batch8", [conv, placement("lstm", "cpu", ("cpu",), 0.3), placement("add", "gpu", ("gpu", "ane"), 0.1)], "ane"
    )
    assert "!!! batch8: ane WAS ASKED FOR AND GETS 60.0% of the cost" in bad
    assert "1 x lstm on cpu: ane cannot take it" in bad
    assert "1 x add on gpu: ane could take it; Core ML prefers gpu" in bad
    assert "!!!" not in summarise("main", [placement("lstm", "cpu", ("cpu",), 1.0)], "all")


def test_shares_count_operations_where_costs_are_unknown() -> None:
    free = [placement("conv", "ane", (), 0.0)] * 3 + [placement("lstm", "cpu", (), 0.0)]
    assert shares(free) == {"ane": 0.75, "cpu": 0.25}
    assert shares([]) == {}


def test_placements_are_read_through_nested_blocks() -> None:
    engine, processor = type("MLNeuralEngineComputeDevice", (), {})(), type("MLCPUComputeDevice", (), {})()

    def operation(name: str, *blocks: Any) -> Any:
        return SimpleNamespace(operator_name=name, outputs=[SimpleNamespace(name=f"{name}_0")], blocks=list(blocks))

    inner = SimpleNamespace(operations=[operation("tanh")])
    block = SimpleNamespace(operations=[operation("const"), operation("conv"), operation("while_loop", inner)])
    program = SimpleNamespace(functions={"main": SimpleNamespace(block=block)})

    def usage(op: Any) -> Any:
        if op.operator_name == "const":
            return None
        device = processor if op.operator_name == "while_loop" else engine
        return SimpleNamespace(preferred_compute_device=device, supported_compute_devices=[processor])

    plan = SimpleNamespace(
        model_structure=SimpleNamespace(program=program),
        get_compute_device_usage_for_mlprogram_operation=usage,
        get_estimated_cost_for_mlprogram_operation=lambda op: SimpleNamespace(weight=0.5),
    )
    placements = read_placements(plan, "main")
    assert [(p.type, p.preferred) for p in placements] == [("conv", "ane"), ("while_loop", "cpu"), ("tanh", "ane")]
    assert placements[0].supported == ("cpu",)
