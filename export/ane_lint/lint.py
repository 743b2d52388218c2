"""Apply the rules to a package and put what they say in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lvm_runtime.coreml.package import load_spec
from lvm_runtime.errors import counted

from ..mil_reference.program import load_program, operations
from .findings import Finding, Level
from .rules import OPERATION_RULES, expanded_weights


def lint_package(package: Path) -> list[Finding]:
    """Return the findings about an `.mlpackage`, the worst first, one per rule and operation type of a function."""
    program = load_program(package)
    found = list(_input_findings(package))
    for function in sorted(program.functions):
        found += _function_findings(program, function)
    return sorted(dict.fromkeys(found), key=lambda finding: finding.level)


def report(package: Path, findings: list[Finding]) -> str:
    """Return the findings as lines, and a last line that counts them."""
    counts = Counter(finding.level for finding in findings)
    summary = ", ".join(counted(counts[level], level.name.lower()) for level in Level)
    return "\n".join([*map(str, findings), f"{package}: {summary}"])


def _function_findings(program: Any, function: str) -> list[Finding]:
    """Return one finding per rule and operation type, or per rule where the type says nothing, with its count."""
    merged: dict[tuple[str, str], Finding] = {}
    for op in operations(program, function):
        if op.op_type == "const":
            continue
        rules = (expanded_weights,) if op.op_type.startswith("constexpr_") else OPERATION_RULES
        for finding in filter(None, (rule(op) for rule in rules)):
            key = finding.rule, "" if finding.rule in ("fp32", "integers") else op.op_type
            merged[key] = replace(merged[key], count=merged[key].count + 1) if key in merged else finding
    return list(merged.values())


def _input_findings(package: Path) -> Iterator[Finding]:
    """Findings about the declared inputs: flexible shapes, and types that need a conversion."""
    spec = load_spec(package)
    inputs = [feature for holder in (spec.description, *spec.description.functions) for feature in holder.input]
    for feature in inputs:
        array = feature.type.multiArrayType
        at = f"input {feature.name}"
        kind = array.WhichOneof("ShapeFlexibility")
        if kind == "shapeRange":
            yield Finding(
                Level.ERROR,
                "range",
                at,
                "a range of sizes runs there at its default size at best (#2022)",
                "list the sizes (EnumeratedShapes), or make one function per size",
            )
        elif kind == "enumeratedShapes" and len(array.enumeratedShapes.shapes) > 1:
            yield Finding(
                Level.NOTE,
                "enumerated",
                at,
                "listed sizes kept models off the engine (#1909) and went wrong (#2730)",
                "prefer one function per size (multifunction, macOS 15), or check every size on the device",
            )
        if array.dataType == array.FLOAT32:
            yield Finding(
                Level.NOTE, "input", at, "fp32 inputs are converted on the CPU first", "declare them fp16 (macOS 13)"
            )
