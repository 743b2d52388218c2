"""From a training form to a Core AI asset on disk.

B batch, T context length, D vector.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lvm_runtime.errors import LvmError, one_line
from lvm_runtime.system import extras

from ..coreml.forms import coreml_form
from ..forms import Form, build_form
from ..forms.ops import TorchOps
from .options import CoreAIOptions

OUTPUTS = ("prediction", "attention")
_EXAMPLE_BATCH = 8  # torch.export takes a size of 0 or 1 for a constant
_OPERATION = re.compile(r"^\s+(?:%\S+(?:, %\S+)* = )?coreai\.(?:decomposable\.)?(\w+)", re.MULTILINE)
_INVOKE = re.compile(r"coreai\.invoke (?:\w+ )*@([\w.]+)")
_BOOKKEEPING = ("constant", "invoke", "output")


class _LinearOps(TorchOps):
    """The operations as Core AI gets them: the last one in float32, as fp16 norms would be off by 4e-4."""

    def normalise(self, x: Tensor) -> Tensor:
        return F.normalize(x.float(), dim=-1)


class LinearForm(nn.Module):
    """A deployment form as a module: contexts `[B, T, D]` to predictions in float32, and the AMN's attention."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form

    def forward(self, context: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of the form."""
        return self.form.contexts(_LinearOps(), context)


def coreai_form(model: nn.Module, options: CoreAIOptions) -> nn.Module:
    """Return the form of a training form that suits `options`, in their precision."""
    form = coreml_form(model) if options.shapes == "static" else LinearForm(build_form(model))
    return form.half() if options.precision == "fp16" else form.float()


@torch.no_grad()
def write_asset(module: nn.Module, options: CoreAIOptions, shape: tuple[int, int], path: Path) -> None:
    """Convert `module` (contexts `[B, T, D]` to a prediction, or to prediction and attention) into `path`.

    `shape` is (T, D). One export with a dynamic batch is specialised for each fixed size. Raises LvmError with the
    converter's own message if it cannot convert.
    """
    coreai_torch = import_coreai_torch()
    contexts = torch.zeros(
        _EXAMPLE_BATCH, *shape, dtype=torch.float16 if options.precision == "fp16" else torch.float32
    )
    outputs = module(contexts)
    names = OUTPUTS[: len(outputs) if isinstance(outputs, tuple) else 1]
    try:
        with quiet():
            exported: Any = torch.export.export(
                module, (contexts,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
            ).run_decompositions(coreai_torch.get_decomp_table())
            converter = coreai_torch.TorchConverter(mode=coreai_torch.TorchConverter.Mode.RELEASE)  # no paths of files
            converter.add_exported_program(exported, input_names=["context"], output_names=names)
            program = compressed(converter.to_coreai(), options.compress)
            if options.fixed_sizes is not None:
                sizes = {f"batch{size}": {"context": (size, *shape)} for size in options.fixed_sizes}
                program.set_static_shape_config("main", sizes)
            program.save_asset(path)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        raise LvmError(
            f"coreai-torch {coreai_torch.__version__} cannot convert this {type(module).__name__}: {one_line(error)}"
        ) from error


def compressed(program: Any, kind: str) -> Any:
    """Return the program with its weights as palettes or int8, by coreai-opt, or as it is for "none"."""
    if kind == "none":
        return program
    tools = extras.require("coreai-opt", f"compressing to {kind}", "coreai_opt.coreai_utils")
    if kind == "int8":
        return tools.quantize_weights(program, tools.DType.INT8)
    return tools.palettize_weights(program, None, n_bits=int(kind.removeprefix("palette")))


def describe(path: Path, title: str, metadata: dict[str, Any]) -> None:
    """Write `title` and `metadata`, under "lvm." keys, into the asset at `path`."""

    def update(found: Any) -> None:
        found.model_description, found.author = title, "lvm_runtime"
        for key, value in metadata.items():
            found.set_custom(f"lvm.{key}", value)

    _open(path).update_metadata(update)


def operations(path: Path) -> Counter[str]:
    """Return how often each operation is in one function of the asset, composites taken apart, constants left out."""
    graphs: dict[str, str] = {}
    for part in re.split(r"^\s+coreai\.graph ", str(_open(path).program), flags=re.MULTILINE)[1:]:
        if found := re.search(r"@([\w.]+)\(", part):
            graphs[found[1]] = part
    public = next(name for name, part in graphs.items() if not part.startswith("private"))
    return _operations(graphs, public)


def _operations(graphs: dict[str, str], name: str) -> Counter[str]:
    counts = Counter(_OPERATION.findall(graphs[name]))
    for called in _INVOKE.findall(graphs[name]):
        counts += _operations(graphs, called)
    return Counter({name: count for name, count in counts.items() if name not in _BOOKKEEPING})


def _open(path: Path) -> Any:
    return extras.require("coreai", "Core AI", "coreai.authoring.asset").AIModelAsset.load(path)


def import_coreai_torch() -> Any:
    """Import coreai-torch, or raise BackendUnavailable with the pip command."""
    with quiet():
        return extras.require("coreai", "exporting to Core AI", "coreai_torch")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what torch and coreai-torch say of themselves during a conversion, and nothing else.

    coreai-torch warns of a torch that is newer than it knows; every asset is executed instead. It prints a line on what
    it converts.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        warnings.filterwarnings("ignore", message="coreai-torch has only been validated")
        warnings.filterwarnings("ignore", message="The tensor attributes .*_flat_weights", category=UserWarning)
        yield
