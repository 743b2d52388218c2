"""Requests and answers of the protocol's REST side: JSON, followed by the bytes of the tensors that say so.

A header, `Inference-Header-Content-Length`, tells where the JSON ends; without it all is JSON.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from lvm_runtime.contexts import Array
from lvm_runtime.errors import InvalidInput
from lvm_runtime.server.failures import Failure, Refused
from lvm_runtime.server.protocol import PREDICTION, Wanted, check_parameters, contexts_of
from lvm_runtime.server.tensors import Layout, from_numbers

Headers = list[tuple[bytes, bytes]]

HEADER_LENGTH = b"inference-header-content-length"
_SHORT, _HEADS = 1024, 256
"""JSON of up to so many bytes, with numbers after it, is kept, and so many of them: a client sends the same before the
numbers of each request, and to read and check it takes 10 of the 60 µs that a request costs in Python."""

_MOST_LISTS = 100_000
"""Lists and objects in a request: five million empty ones, in 15 MB, would hold the event loop for seconds."""

_WINDOW = {"gzip": 31, "deflate": 15}  # zlib's names for the two formats
_LEVEL = 1  # floats shrink by a tenth at any level, and this one is the fastest


@dataclass(frozen=True, slots=True)
class InferCall:
    """A request as it came: contexts of any float type, and the outputs that it wants."""

    id: str | None
    contexts: NDArray[Any]
    outputs: tuple[Wanted, ...]


@dataclass(frozen=True, slots=True)
class _Head:
    """What the JSON of a request says; `contexts` are its numbers, or how to read those that follow."""

    id: str | None
    contexts: NDArray[Any] | Layout
    outputs: tuple[Wanted, ...]


def decode(body: bytes, header_length: str | None) -> InferCall:
    """Return what a body asks for; InvalidInput says what is wrong with it."""
    end = _header_end(body, header_length)
    tail = len(body) - end
    head = (_known_head if tail and end <= _SHORT else _read_head)(body[:end], tail)
    contexts = head.contexts
    if isinstance(contexts, Layout):
        contexts = contexts.read(memoryview(body)[end:])
    return InferCall(head.id, contexts, head.outputs)


def _read_head(text: bytes, tail: int) -> _Head:
    """Return what JSON says that `tail` bytes follow."""
    request = _object(_parse(text), "the request")
    binary_by_default = _flag(_parameters(request, "parameters"), "binary_data_output")
    inputs = [_object(tensor, "an input") for tensor in _list(request.get("inputs"), "inputs")]
    contexts_of([tensor.get("name") for tensor in inputs])
    contexts = _contexts(inputs[0], tail)
    outputs = tuple(
        _wanted(_object(output, "an output"), binary_by_default)
        for output in _list(request.get("outputs", []), "outputs")
    )
    call_id = request.get("id")
    if call_id is not None and not isinstance(call_id, str):
        raise InvalidInput(f"id is {call_id!r:.99}, expected a string")
    return _Head(call_id, contexts, outputs or (Wanted(PREDICTION, binary_by_default),))


_known_head = lru_cache(_HEADS)(_read_head)


def encode(model: str, version: str, call: InferCall, found: dict[str, Array]) -> tuple[bytes, Headers]:
    """Return the body of an answer and its headers."""
    outputs, chunks = [], []
    for wanted in call.outputs:
        array = np.ascontiguousarray(found[wanted.name])
        output: dict[str, Any] = {"name": wanted.name, "datatype": "FP32", "shape": array.shape}
        if wanted.binary:
            output["parameters"] = {"binary_data_size": array.nbytes}
            chunks.append(array.tobytes())
        else:
            output["data"] = array.reshape(-1)
        outputs.append(output)
    answer = {"model_name": model, "model_version": version, "outputs": outputs}
    if call.id is not None:
        answer["id"] = call.id
    head = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    if not chunks:
        return head, [(b"content-type", b"application/json")]
    headers = [(b"content-type", b"application/octet-stream"), (HEADER_LENGTH, b"%d" % len(head))]
    return b"".join([head, *chunks]), headers


def decompress(body: bytes, encoding: str, most: int) -> bytes:
    """Return the body that `encoding` packed; Refused for an unknown encoding and for more than `most` bytes."""
    if encoding not in _WINDOW:
        raise Refused(Failure.ENCODING, f"content-encoding is {encoding!r:.99}, expected gzip or deflate")
    unpack = zlib.decompressobj(_WINDOW[encoding])
    try:
        plain = unpack.decompress(body, most + 1)
    except zlib.error as error:
        raise InvalidInput(f"the body is no {encoding} ({error})") from error
    if len(plain) > most:
        raise Refused(Failure.LARGE, f"the body has more than {most} bytes unpacked; send fewer contexts")
    if not unpack.eof or unpack.unused_data:
        problem = "goes on after its end" if unpack.eof else "is cut off"
        raise InvalidInput(f"the {encoding} body {problem}")
    return plain


def compression(accepted: str) -> str | None:
    """Return the encoding that an Accept-Encoding header asks for, None for none."""
    for part in accepted.lower().split(",") if accepted else ():
        name, _, weight = part.replace(" ", "").partition(";")
        if name in _WINDOW and weight not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            return name
    return None


def compress(body: bytes, encoding: str) -> bytes:
    """Return the body packed."""
    pack = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW[encoding])
    return pack.compress(body) + pack.flush()


def _header_end(body: bytes, header_length: str | None) -> int:
    if header_length is None:
        return len(body)
    digits = header_length.isascii() and header_length.isdigit() and len(header_length) < 20
    if not digits or int(header_length) > len(body):
        name = HEADER_LENGTH.decode()
        raise InvalidInput(f"{name} is {header_length!r:.99}, expected at most the body's {len(body)} bytes")
    return int(header_length)


def _parse(text: bytes) -> Any:
    if text.count(b"[") + text.count(b"{") > _MOST_LISTS:
        raise InvalidInput(f"the request has more than {_MOST_LISTS} lists and objects; send data flat, or as bytes")
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the request is no JSON ({error})") from error


def _contexts(tensor: dict[str, Any], tail: int) -> NDArray[Any] | Layout:
    name, datatype, shape = tensor["name"], tensor.get("datatype"), tensor.get("shape")
    size = _parameters(tensor, f"{name}: parameters").get("binary_data_size")
    if size is None:
        if tail:
            raise InvalidInput(f"{tail} bytes follow the JSON, and no input has a binary_data_size")
        if "data" not in tensor:
            raise InvalidInput(f"{name}: has neither data nor a binary_data_size")
        return from_numbers(name, datatype, shape, tensor["data"])
    if "data" in tensor:
        raise InvalidInput(f"{name}: has both data and a binary_data_size; expected one of them")
    if type(size) is not int or size != tail:
        raise InvalidInput(f"{name}: binary_data_size is {size!r:.99}, and {tail} bytes follow the JSON")
    return Layout.of(name, datatype, shape, tail)


def _wanted(output: dict[str, Any], binary_by_default: bool) -> Wanted:
    name = output.get("name")
    if not isinstance(name, str):
        raise InvalidInput(f"an output's name is {name!r:.99}, expected a string")
    return Wanted(name, _flag(_parameters(output, f"{name}: parameters"), "binary_data", default=binary_by_default))


def _parameters(holder: dict[str, Any], what: str) -> dict[str, Any]:
    parameters = _object(holder.get("parameters", {}), what)
    check_parameters(parameters.get)
    return parameters


def _flag(parameters: dict[str, Any], name: str, *, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidInput(f"{name} is {value!r:.99}, expected true or false")
    return value


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{what}: got {type(value).__name__}, expected an object")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidInput(f"{what}: got {type(value).__name__}, expected a list")
    return value
