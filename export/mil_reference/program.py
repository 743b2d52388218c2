"""Load the MIL program of a Core ML package, and walk over its operations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lvm_runtime.coreml.package import import_coremltools, load_spec
from lvm_runtime.errors import InvalidInput


def load_program(package: str | Path) -> Any:
    """Return the MIL program (`coremltools…mil.Program`) of an `.mlpackage`.

    Raises ArtifactError if it cannot be read, InvalidInput if it is not an mlprogram.
    """
    import_coremltools()
    from coremltools.converters.mil.frontend.milproto import load

    package = Path(package)
    spec = load_spec(package)
    kind = spec.WhichOneof("Type")
    if kind != "mlProgram":
        raise InvalidInput(f"{package}: its model is a {kind}, expected an mlProgram; convert it to one first")
    weights = package / "Data" / "com.apple.CoreML" / "weights"
    return load.load(spec, spec.specificationVersion, file_weights_dir=str(weights))


def operations(program: Any, function: str | None = None) -> Iterator[Any]:
    """Yield every operation, those in nested blocks included, of one function or of all."""
    for name, block in program.functions.items():
        if function in (None, name):
            yield from block_operations(block)


def function_named(program: Any, name: str | None) -> tuple[str, Any]:
    """Return the name and block of a function of a program: the one called `name`, or the only one, or "main"."""
    functions = program.functions
    if name is None:
        name = next(iter(functions)) if len(functions) == 1 else "main"
    if name not in functions:
        raise InvalidInput(f"the program has no function {name!r}; it has {', '.join(functions)}")
    return name, functions[name]


def dtype_of(variable: Any) -> str:
    """Return the declared element type of a MIL variable: "fp16", "fp32", "int32", "bool", "list", …"""
    from coremltools.converters.mil.mil import types

    if types.is_list(variable.sym_type):
        return "list"
    return types.builtin_to_string(variable.dtype)


def block_operations(block: Any) -> Iterator[Any]:
    """Yield every operation of a block, those in nested blocks included."""
    for op in block.operations:
        yield op
        for nested in op.blocks:
            yield from block_operations(nested)
