"""Damage for fuzz tests: bytes with random edits, and JSON with a value exchanged for another."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

INTERESTING = (b"", b"\0", b"\xff" * 8, b"\xff\xff\xff\x7f", b"9" * 30, b"[" * 40, b"PK\x03\x04", b'"', b"NaN", b"-1")

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([10**9, -1, "../x", "/dev/zero", "a" * 300, "0" * 64, "onnx", "sequence", "F32"]),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=8,
)


def damaged(data: bytes, generator: random.Random) -> bytes:
    """Return `data` after one to four edits: bits flipped, bytes replaced, cut, repeated or put in."""
    result = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        start = generator.randrange(len(result) + 1)
        end = min(start + generator.choice((0, 1, 1, 2, 4, 8, 64)), len(result))
        kind = generator.randrange(5)
        if kind == 0 and start < len(result):
            result[start] ^= 1 << generator.randrange(8)
        elif kind == 1:
            result[start:end] = generator.randbytes(end - start)
        elif kind == 2:
            del result[start:end]
        elif kind == 3:
            result[start:start] = result[start:end]
        else:
            result[start:end] = generator.choice(INTERESTING)
    return bytes(result)


def places(body: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in a JSON document."""
    children = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for key, value in children:
        yield (*path, key)
        yield from places(value, (*path, key))


def exchanged(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a copy of a JSON document with the value at `path` exchanged."""
    result = parent = copy.deepcopy(body)
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return result
