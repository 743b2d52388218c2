"""`lvm-runtime export mil-reference PACKAGE`, or `python -m export.mil_reference` in a checkout."""

from __future__ import annotations

import argparse
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.commands import console
from lvm_runtime.commands.parser import Parser
from lvm_runtime.errors import InvalidInput, counted
from lvm_runtime.system import atomic

from .arithmetic import MODES
from .evaluate import Evaluator
from .program import load_program, operations

DESCRIPTION = """\
Compute what a Core ML package (any mlprogram) answers, on any machine, without Core ML.

  exact    everything in float64: is it the right function?
  fp16     every result rounded to its declared type: do its numbers survive?
  narrow   sums rounded on the way and subnormals flushed as well: would they on a careless device?

It proves the package, not the device: which device Core ML chooses, and how that one rounds, is seen on a Mac."""


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = Parser(
        prog=prog or console.program(),
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: %(prog)s model.mlpackage --input contexts.npy --mode fp16",
    )
    parser.add_argument("package", metavar="PACKAGE", type=Path, help="an .mlpackage that holds an mlprogram")
    parser.add_argument(
        "--input",
        type=Path,
        metavar="FILE",
        help=".npy for one input, or .npz with one array for each (default: only list the operations)",
    )
    parser.add_argument("--mode", choices=MODES, help="default: exact")
    parser.add_argument("--function", metavar="NAME", help="of a multifunction package (default: the one that fits)")
    parser.add_argument("--output", type=Path, metavar="NPZ", help="write every output there, by name")
    return parser


def command(argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Parse the command line, evaluate and print."""
    arguments = build_parser(prog).parse_args(argv)
    if arguments.input is None:
        console.refuse_given(arguments, ("mode", "function", "output"), "is for what is evaluated; give --input too")
    mode = arguments.mode or "exact"
    arrays = None if arguments.input is None else read_arrays(arguments.input)
    program = load_program(arguments.package)
    for name in in_order(program.functions):
        counts = Counter(op.op_type for op in operations(program, name) if op.op_type != "const")
        listed = ", ".join(f"{kind} {count}" for kind, count in counts.most_common())
        console.show(f"{name}: {counted(sum(counts.values()), 'operation')}: {listed}")
    if arrays is None:
        return 0
    evaluate, inputs = fitting(program, arrays, mode, arguments.function)
    outputs = evaluate(inputs)
    console.show(f"function {evaluate.name}, {mode} arithmetic")
    for name, values in outputs.items():
        console.show(describe(name, values))
    if arguments.output is not None:
        buffer = io.BytesIO()
        np.savez(buffer, **outputs)  # type: ignore[arg-type]
        atomic.write_bytes(arguments.output, buffer.getvalue())
    return 0


def in_order(functions: Iterable[str]) -> list[str]:
    """Return the names of a package's functions, `batch8` before `batch32`."""
    return sorted(functions, key=lambda name: (len(name), name))


def read_arrays(path: Path) -> dict[str | None, NDArray[Any]]:
    """Read an `.npz` by name, or the one array of an `.npy` under None. Raises InvalidInput for anything else."""
    try:
        loaded = np.load(path, allow_pickle=False)
    except OSError as error:
        raise InvalidInput(
            f"{path}: cannot be read ({error.strerror or error}); expected an .npy or .npz file of numbers"
        ) from error
    except (ValueError, EOFError) as error:
        raise InvalidInput(f"{path}: expected an .npy or .npz file of numbers; {error}") from error
    if isinstance(loaded, np.ndarray):
        return {None: loaded}
    with loaded:
        return dict(loaded.items())


def fitting(
    program: Any, arrays: dict[str | None, NDArray[Any]], mode: str, function: str | None
) -> tuple[Evaluator, dict[str, NDArray[Any]]]:
    """Return the evaluator of `function`, or of the first whose inputs have the shapes of `arrays`, and its inputs."""
    names = [function] if function is not None or len(program.functions) == 1 else in_order(program.functions)
    refused: list[str] = []
    for name in names:
        evaluate = Evaluator(program, mode=mode, function=name)
        inputs = {key or next(iter(evaluate.inputs)): value for key, value in arrays.items()}
        try:
            evaluate.check(inputs)
        except InvalidInput as error:
            refused.append(f"{evaluate.name}: {error}")
        else:
            return evaluate, inputs
    raise InvalidInput("; ".join(refused))


def describe(name: str, values: NDArray[Any]) -> str:
    """Return one line on an output: shape, range, first values; and loudly, what is not a number."""
    flat = np.asarray(values, dtype=np.float64).reshape(-1)
    bad = int((~np.isfinite(flat)).sum())
    start = ", ".join(f"{value:.6g}" for value in flat[:4])
    line = f"  {name} {list(np.shape(values))}: from {flat.min():.6g} to {flat.max():.6g}; starts {start}"
    return line + (f"; {bad} VALUES ARE NaN OR INFINITE" if bad else "")


if __name__ == "__main__":
    raise SystemExit(console.run(command))
