"""What a TorchScript file may hold: the code of a traced form, and nothing that reaches out of it.

A TorchScript file is a zip of weights, of a pickle that puts objects together, and of source code in a language that
looks like Python. Loading runs the `__setstate__` methods of that code, and the language has operators that read and
write files (`torch.from_file`, `torch.save`). So the source is parsed first and must consist of what tracing writes:
straight-line `forward` methods that call the operators below. PyTorch then gets a new zip of the parts that were
checked, because two readers of one zip can see different parts in it.
"""

from __future__ import annotations

import ast
import io
import pickletools
import re
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

from lvm_runtime.artifact.files import read_plain
from lvm_runtime.artifact.limits import LARGEST_FILE
from lvm_runtime.errors import ArtifactError

LARGEST_CODE = 4 << 20
"""Bytes of all source and pickles, which are compressed in the file; the Transformer of 12 layers has 0.1 MB."""

OPERATORS = frozenset(
    (
        *("torch.add", "torch.addmm", "torch.cat", "torch.clamp_min", "torch.contiguous", "torch.device", "torch.div"),
        *("torch.dropout", "torch.expand", "torch.expand_as", "torch.flatten", "torch.gelu", "torch.gru"),
        *("torch.layer_norm", "torch.linalg_vector_norm", "torch.linear", "torch.lstm", "torch.masked_fill"),
        *("torch.masked_fill_", "torch.matmul", "torch.mean", "torch.mul", "torch.new_zeros", "torch.permute"),
        *("torch.relu", "torch.reshape", "torch.scaled_dot_product_attention", "torch.select", "torch.sigmoid"),
        *("torch.size", "torch.slice", "torch.softmax", "torch.split_with_sizes", "torch.squeeze", "torch.sub"),
        *("torch.tanh", "torch.transpose", "torch.unflatten", "torch.unsqueeze", "torch.view", "torch.zeros"),
        *("torch.zeros_like", "torch._native_multi_head_attention", "ops.prim.NumToTensor"),
    )
)
"""What the deployment forms and the training forms call when they are traced. All of it is arithmetic on tensors."""

_BUILT_IN = frozenset({"annotate", "float", "getattr", "int"})
_METHOD = re.compile(r"forward\d*")
_NODES = (
    *(ast.Module, ast.ClassDef, ast.FunctionDef, ast.arguments, ast.arg, ast.Assign, ast.AnnAssign, ast.Return),
    *(ast.Call, ast.keyword, ast.Attribute, ast.Name, ast.Subscript, ast.List, ast.Tuple, ast.Constant),
    *(ast.UnaryOp, ast.USub, ast.Load, ast.Store),
)
_GLOBALS = frozenset({"collections OrderedDict", "torch._utils _rebuild_tensor_v2"}) | {
    f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Bool")
}
_PARTS = re.compile(
    r"(data\.pkl|constants\.pkl|(\.data/)?version|byteorder|(data|constants)/\d+|code/__torch__(/\w+)*\.py)"
)
_UNUSED = re.compile(r"(\.data/\w+|traced_inputs(\.pkl|/\d+)|code/__torch__(/\w+)*\.py\.debug_pkl|\.\w+)")
"""Debug notes, example inputs and identifiers, which do not go into the new zip."""


def checked_module(path: Path) -> io.BytesIO:
    """Return the checked parts of the TorchScript file at `path`, as a file for `torch.jit.load`.

    Raises ArtifactError, and runs nothing, for a file with other parts, other code or other operators.
    """
    try:
        data = read_plain(path, LARGEST_FILE)
        with zipfile.ZipFile(io.BytesIO(data)) as parts:
            contents = _read_parts(parts, len(data))
            for name, data in contents.items():
                if name.endswith(".py"):
                    _check_code(data, name)
                elif name.endswith(".pkl"):
                    _check_pickle(data, name)
    # zipfile raises RuntimeError and NotImplementedError for encrypted and unusual parts
    except (ValueError, OSError, EOFError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path}: not a TorchScript file of this project: {error}") from error
    checked = io.BytesIO()
    with zipfile.ZipFile(checked, "w") as parts:
        for name, data in contents.items():
            parts.writestr(f"model/{name}", data)
    checked.seek(0)
    return checked


def _read_parts(parts: zipfile.ZipFile, size: int) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    left = LARGEST_CODE
    if sum(part.file_size for part in parts.infolist() if part.compress_type == zipfile.ZIP_STORED) > size:
        raise ValueError("its parts overlap")
    for part in parts.infolist():
        name = part.filename.partition("/")[2]
        if not _PARTS.fullmatch(name) and _UNUSED.fullmatch(name):
            continue
        if not _PARTS.fullmatch(name) or name in contents:
            raise ValueError(f"it has a part {part.filename[:99]!r}")
        if part.compress_type == zipfile.ZIP_STORED:
            contents[name] = parts.read(part)
            continue
        if part.compress_type != zipfile.ZIP_DEFLATED:
            raise ValueError(f"its part {part.filename[:99]!r} is compressed in a way that PyTorch does not write")
        with parts.open(part) as file:
            contents[name] = file.read(left + 1)
        left -= len(contents[name])
        if left < 0:
            raise ValueError(f"its code has more than {LARGEST_CODE:,} bytes")
    return contents


def _check_code(source: bytes, name: str) -> None:
    """Raise ValueError for code that does anything but straight-line arithmetic."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the parser, on odd literals
            tree = ast.parse(source.decode("ascii"))  # of bytes, a comment may name a coding, which PyTorch ignores
        nodes = list(ast.walk(tree))
    except (SyntaxError, RecursionError, MemoryError, UnicodeDecodeError) as error:
        raise ValueError(f"{name} cannot be parsed ({error})") from error
    for node in nodes:
        if not isinstance(node, _NODES):
            raise ValueError(f"{name} has {type(node).__name__}, which a traced form never has")
        if isinstance(node, ast.FunctionDef) and not _METHOD.fullmatch(node.name):
            raise ValueError(f"{name} defines {node.name[:99]}, and a traced form only forward")
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.decorator_list:
            raise ValueError(f"{name} has a decorator, which a traced form never has")
        if isinstance(node, ast.Call):
            _check_call(node, name)
        dotted = _dotted(node)
        if dotted.startswith(("torch.", "ops.")) and not any(f"{op}.".startswith(f"{dotted}.") for op in OPERATORS):
            raise ValueError(f"{name} names {dotted[:99]}, which no form of this project uses")
        if dotted.startswith("__torch__.torch.classes"):
            raise ValueError(f"{name} names {dotted[:99]}, a class outside the file")


def _check_call(node: ast.Call, name: str) -> None:
    called = _dotted(node.func)
    method = isinstance(node.func, ast.Attribute) and _METHOD.fullmatch(node.func.attr)
    if called not in OPERATORS | _BUILT_IN and (not method or called.startswith(("torch.", "ops.", "__torch__."))):
        raise ValueError(
            f"{name} calls {(called or 'something without a name')[:99]}, which no form of this project uses"
        )


def _dotted(node: ast.AST) -> str:
    """Return `a.b.c` for such an expression, "" for another."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def _check_pickle(data: bytes, name: str) -> None:
    """Raise ValueError for a pickle that names a class or function which is not one of the file's own modules."""
    for operation, argument, _ in pickletools.genops(data):
        if operation.name == "GLOBAL":
            own = str(argument).startswith("__torch__.") and not str(argument).startswith("__torch__.torch.classes")
            if not own and argument not in _GLOBALS:
                raise ValueError(f"{name} names {str(argument)[:99]!r}, which no form of this project uses")
        elif operation.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
            raise ValueError(f"{name} has {operation.name}, which PyTorch does not write")
