"""Names and shapes of an architecture's weights, and the header of the file that holds them; read without torch.

D `dim`, T context length, H `hidden_dim`, F `ffn_dim`, A `attention_dim`, N `bottleneck_dim`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lvm_runtime.artifact.config import AMNConfig, GRUConfig, LSTMConfig, ModelConfig, TransformerConfig
from lvm_runtime.artifact.files import open_plain
from lvm_runtime.artifact.json_text import parse_object
from lvm_runtime.artifact.limits import LARGEST_WEIGHTS_HEADER
from lvm_runtime.errors import ArtifactError

Shape = tuple[int, ...]
Shapes = Iterator[tuple[str, Shape]]

_FLOAT32 = 4  # bytes


def weight_shapes(config: ModelConfig) -> Shapes:
    """Yield the reference key and the shape of each weight of an architecture.

    >>> from lvm_runtime.artifact.config import make_config
    >>> dict(weight_shapes(make_config("lstm", dim=8, hidden_dim=4)))["output_proj.weight"]
    (8, 4)
    """
    if isinstance(config, LSTMConfig):
        return _lstm(config)
    if isinstance(config, GRUConfig):
        return _gru(config)
    if isinstance(config, TransformerConfig):
        return _transformer(config)
    assert isinstance(config, AMNConfig)
    return _amn(config)


def check_shapes(found: Mapping[str, Shape], config: ModelConfig, source: str) -> None:
    """Raise ArtifactError unless `found` has the weights of `config`; `source` is named in it.

    Stops at the first that is missing, so that a config of a billion layers costs nothing.
    """
    count = 0
    for name, shape in weight_shapes(config):
        if name not in found:
            raise ArtifactError(f"{source}: not the weights of this {config.architecture}: {name} is missing")
        if tuple(found[name]) != shape:
            raise ArtifactError(
                f"{source}: not the weights of this {config.architecture}: {name} has shape {list(found[name])}, "
                f"expected {list(shape)} after its config"
            )
        count += 1
    if count != len(found):
        extra = sorted(set(found) - {name for name, _ in weight_shapes(config)})
        raise ArtifactError(f"{source}: not the weights of this {config.architecture}: {extra[0][:99]!r} is not known")


def check_header(path: Path, config: ModelConfig) -> None:
    """Read the header of a safetensors file and compare it with `config` and with the size of the file.

    Raises ArtifactError for a header that is malformed or large, tensors that are not float32, leave gaps or
    overlap, and for weights that are not those of the config.
    """
    with open_plain(path) as file:
        header = _read_header(file.read(8), path, file.read(LARGEST_WEIGHTS_HEADER))
        size = path.stat().st_size
    tensors = parse_object(header, f"{path}: header")
    tensors.pop("__metadata__", None)
    check_shapes(_read_shapes(tensors, path, size - 8 - len(header)), config, str(path))


def _read_header(prefix: bytes, path: Path, rest: bytes) -> bytes:
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > min(LARGEST_WEIGHTS_HEADER, len(rest)):
        raise ArtifactError(
            f"{path}: its header has {length:,} bytes, expected at most {min(LARGEST_WEIGHTS_HEADER, len(rest)):,}; "
            "this is not a safetensors file of this project"
        )
    return rest[:length]


def _read_shapes(tensors: dict[str, Any], path: Path, size: int) -> dict[str, Shape]:
    """Return the shapes of the tensors, which must be float32 and fill the `size` bytes after the header exactly."""
    shapes: dict[str, Shape] = {}
    spans = []
    for name, entry in tensors.items():
        match entry:
            case {"dtype": "F32", "shape": list(shape), "data_offsets": [int(start), int(end)]} if len(entry) == 3:
                whole = len(shape) <= 4 and all(type(n) is int and 0 < n <= size for n in shape)
                whole = whole and type(start) is int and type(end) is int  # JSON's false is an int to Python
                if not whole or math.prod(shape) * _FLOAT32 != end - start:
                    raise ArtifactError(f"{path}: tensor {name[:99]!r}: shape and offsets do not fit each other")
                shapes[name] = tuple(shape)
                spans.append((start, end))
            case _:
                raise ArtifactError(f"{path}: tensor {name[:99]!r}: expected dtype F32, shape and data_offsets")
    ends = [0, *(end for _, end in sorted(spans))]
    if any(start != end for (start, _), end in zip(sorted(spans), ends, strict=False)) or ends[-1] != size:
        raise ArtifactError(f"{path}: its tensors leave gaps, overlap, or do not end with the file")
    return shapes


def _linear(name: str, width: int, inputs: int) -> Shapes:
    yield f"{name}.weight", (width, inputs)
    yield f"{name}.bias", (width,)


def _norm(name: str, width: int) -> Shapes:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _recurrent(name: str, suffix: str, gates: int, inputs: int, hidden: int) -> Shapes:
    yield f"{name}.weight_ih_{suffix}", (gates * hidden, inputs)
    yield f"{name}.weight_hh_{suffix}", (gates * hidden, hidden)
    yield f"{name}.bias_ih_{suffix}", (gates * hidden,)
    yield f"{name}.bias_hh_{suffix}", (gates * hidden,)


def _lstm(config: LSTMConfig) -> Shapes:
    hidden = config.hidden_dim
    for layer in range(config.num_layers):
        yield from _recurrent("lstm", f"l{layer}", 4, hidden if layer else config.dim, hidden)
    yield from _linear("output_proj", config.dim, hidden)


def _gru(config: GRUConfig) -> Shapes:
    hidden = config.hidden_dim
    yield from _linear("input_proj", hidden, config.dim)
    for block in range(config.num_layers):
        yield from _recurrent(f"blocks.{block}.gru", "l0", 3, hidden, hidden)
        yield from _norm(f"blocks.{block}.norm", hidden)
    yield from _linear("output_proj", config.dim, hidden)


def _transformer(config: TransformerConfig) -> Shapes:
    hidden = config.hidden_dim
    yield from _linear("input_proj", hidden, config.dim)
    yield "pos_encoder.pe", (1, config.max_positions, hidden)
    for layer in range(config.num_layers):
        name = f"transformer_decoder.layers.{layer}"
        for attention in ("self_attn", "multihead_attn"):
            yield f"{name}.{attention}.in_proj_weight", (3 * hidden, hidden)
            yield f"{name}.{attention}.in_proj_bias", (3 * hidden,)
            yield from _linear(f"{name}.{attention}.out_proj", hidden, hidden)
        yield from _linear(f"{name}.linear1", config.ffn_dim, hidden)
        yield from _linear(f"{name}.linear2", hidden, config.ffn_dim)
        yield from itertools.chain.from_iterable(_norm(f"{name}.norm{i}", hidden) for i in (1, 2, 3))
    yield from _linear("head.0", hidden, hidden)
    yield from _norm("head.2", hidden)
    yield from _linear("head.3", config.dim, hidden)


def _amn(config: AMNConfig) -> Shapes:
    yield from _linear("context_encoder", config.attention_dim, config.dim)
    yield from _linear("query_encoder", config.attention_dim, config.dim)
    yield from _linear("residual_net.0", config.hidden_dim, 2 * config.dim)
    yield from _norm("residual_net.2", config.hidden_dim)
    yield from _linear("residual_net.3", config.bottleneck_dim, config.hidden_dim)
    yield from _norm("residual_net.5", config.bottleneck_dim)
    yield from _linear("residual_net.6", config.dim, config.bottleneck_dim)
    if config.recency:
        yield "mean_recency", (config.context_length,)
        yield "attention_recency", (config.context_length,)
