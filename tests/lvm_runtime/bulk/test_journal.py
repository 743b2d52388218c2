"""Journals of every malformed kind: a damaged line counts for nothing, and another run's journal is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lvm_runtime.bulk.journal import entry, heading, read
from lvm_runtime.errors import InvalidInput

IDENTITY = {"input": [["in.npy", 3]], "rows": 100}
GOOD = entry(1, {40: "row 40 is nan"})

LINES: dict[str, bytes] = {
    "torn": GOOD[:-5].encode(),
    "no JSON": b"}{",
    "no UTF-8": b'{"chunk": 2, "bad": {"\xff": 1}}',
    "NUL": bytes(60),
    "a list": b"[2]",
    "a number": b"2",
    "nested": b"[" * 100_000,
    "long integer": b'{"chunk": ' + b"9" * 5000 + b"}",
    "no chunk": b'{"bad": {}}',
    "no bad": b'{"chunk": 2}',
    "chunk is text": b'{"chunk": "2", "bad": {}}',
    "chunk is a float": b'{"chunk": 2.0, "bad": {}}',
    "chunk is a truth": b'{"chunk": true, "bad": {}}',
    "chunk is infinite": b'{"chunk": Infinity, "bad": {}}',
    "chunk is negative": b'{"chunk": -1, "bad": {}}',
    "chunk beyond the end": b'{"chunk": 4, "bad": {}}',
    "bad is a list": b'{"chunk": 2, "bad": [70]}',
    "bad is null": b'{"chunk": 2, "bad": null}',
    "row of another chunk": b'{"chunk": 2, "bad": {"40": "x"}}',
    "row is text": b'{"chunk": 2, "bad": {"x": "x"}}',
    "row with a sign": b'{"chunk": 2, "bad": {"+70": "x"}}',
    "reason is a number": b'{"chunk": 2, "bad": {"70": 1}}',
    "reason with control characters": b'{"chunk": 2, "bad": {"70": "\\u001b[31m"}}',
}


def _read(path: Path, *lines: bytes) -> Any:
    path.write_bytes(b"\n".join(lines))
    return read(path, IDENTITY, 30, 100)


@pytest.mark.parametrize("line", LINES.values(), ids=LINES.keys())
def test_a_damaged_line_counts_for_nothing(tmp_path: Path, line: bytes) -> None:
    found = _read(tmp_path / "j", heading(IDENTITY).strip().encode(), line, GOOD.encode())
    assert found == {1: {40: "row 40 is nan"}}


@pytest.mark.parametrize("head", [b"", b"{", b"[]", bytes(9), b"\xff", b"[" * 100_000], ids=repr)
def test_a_damaged_heading_is_no_run_of_ours(tmp_path: Path, head: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"is damaged; .*--restart"):
        _read(tmp_path / "j", head, GOOD.encode())


def test_another_run_is_named(tmp_path: Path) -> None:
    other = json.dumps(IDENTITY | {"rows": 99}).encode()
    with pytest.raises(InvalidInput, match=r"belongs to a run with other rows; .*--restart"):
        _read(tmp_path / "j", other, GOOD.encode())
