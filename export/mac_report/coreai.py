"""Where Core AI means to run each operation, for each device that may be asked for. macOS 27."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

from lvm_runtime.backends.coreai import CoreAIBackend, specialisation
from lvm_runtime.commands.tables import markdown
from lvm_runtime.system import extras

from ..coreai.options import USUAL


def placement(folder: Path, name: str) -> str:
    """Return how many operations of each asset go where, and which are where they were not asked to be."""
    module = extras.require("coreai", "the placement", "coreai.authoring.asset")
    plans = extras.require("coreai", "the placement", "coreai_torch.debugging.compute_plan").ComputePlan
    rows = []
    for usual in USUAL:
        program = module.AIModelAsset.load(folder / name / usual.path).program
        for device in CoreAIBackend.devices():
            plan = asyncio.run(plans.from_program(program, specialisation(device)))
            rows.append((usual.name, device, *summary(plan.to_dict(program))))
    return markdown(("asset", "asked for", "operations by device", "not on the Neural Engine"), rows)


def summary(plan: dict[str, Any]) -> tuple[str, str]:
    """Return the operations by device, and those that are not on the Neural Engine with Core AI's reasons, counted."""
    names = plan["operation_names"]
    elsewhere: Counter[str] = Counter()
    for found in plan["entries"]:
        if "NEURAL_ENGINE" not in found["devices"]:
            reason = "; ".join(map(str, found["validation"]))
            elsewhere[f"{names.get(found['operation_id'], '?')}{f' ({reason})' if reason else ''}"] += 1
    listed = ", ".join(f"{count} {name}" for name, count in elsewhere.most_common())
    by_device = ", ".join(f"{device} {count}" for device, count in plan["device_histogram"].items())
    return by_device.replace("|", "/"), listed.replace("|", "/") or "none"
