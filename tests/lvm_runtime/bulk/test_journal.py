"""Journals of every malformed kind: a damaged line counts for nothing, and another run's journal is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvm_runtime.bulk.journal import entry, heading, read
from lvm_runtime.errors import InvalidInput, LvmError
from tests.fuzzing import quick_settings

IDENTITY = {"input": [["in.npy", 3]], "rows": 100}
GOOD = entry(1, {40: "row 40 is nan"})

LINES: dict[str, bytes] = {
    "torn": GOOD[:-5].encode(),
    "no JSON": b"}{",
    "no UTF-8": b'{"block": 2, "bad": {"\xff": 1}}',
    "NUL": bytes(60),
    "a list": b"[2]",
    "a number": b"2",
    "nested": b"[" * 100_000,
    "long integer": b'{"block": ' + b"9" * 5000 + b"}",
    "no block": b'{"bad": {}}',
    "no bad": b'{"block": 2}',
    "block is text": b'{"block": "2", "bad": {}}',
    "block is a float": b'{"block": 2.0, "bad": {}}',
    "block is a truth": b'{"block": true, "bad": {}}',
    "block is infinite": b'{"block": Infinity, "bad": {}}',
    "block is negative": b'{"block": -1, "bad": {}}',
    "block beyond the end": b'{"block": 4, "bad": {}}',
    "bad is a list": b'{"block": 2, "bad": [70]}',
    "bad is null": b'{"block": 2, "bad": null}',
    "row of another block": b'{"block": 2, "bad": {"40": "x"}}',
    "row of the next block": b'{"block": 2, "bad": {"95": "x"}}',
    "row is text": b'{"block": 2, "bad": {"x": "x"}}',
    "row with a sign": b'{"block": 2, "bad": {"+70": "x"}}',
    "reason is a number": b'{"block": 2, "bad": {"70": 1}}',
    "reason with control characters": b'{"block": 2, "bad": {"70": "\\u001b[31m"}}',
}


def _read(path: Path, *lines: bytes) -> Any:
    path.write_bytes(b"\n".join(lines))
    return read(path, IDENTITY, 30, 100)


@pytest.mark.parametrize("line", LINES.values(), ids=LINES.keys())
def test_a_damaged_line_counts_for_nothing(tmp_path: Path, line: bytes) -> None:
    found = _read(tmp_path / "j", heading(IDENTITY).strip().encode(), line, GOOD.encode())
    assert found == {1: {40: "row 40 is nan"}}


@pytest.mark.parametrize(
    "head",
    [b"", b"{", b"[]", bytes(9), b"\xff", b"[" * 100_000],
    ids=["empty", "brace", "list", "NUL", "no UTF-8", "deep"],
)
def test_a_damaged_heading_is_no_run_of_ours(tmp_path: Path, head: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"is damaged; .*--restart"):
        _read(tmp_path / "j", head, GOOD.encode())


def test_another_run_is_named(tmp_path: Path) -> None:
    other = json.dumps(IDENTITY | {"rows": 99}).encode()
    with pytest.raises(InvalidInput, match=r"belongs to a run with other rows; .*--restart"):
        _read(tmp_path / "j", other, GOOD.encode())
    for none in ({}, {"input": IDENTITY["input"]}):
        with pytest.raises(InvalidInput, match=r"/j belongs to a run with other "):
            _read(tmp_path / "j", json.dumps(none).encode(), GOOD.encode())
    with pytest.raises(InvalidInput, match="belongs to a run with other settings"):
        _read(tmp_path / "j", json.dumps(IDENTITY | {"time": 1}).encode())


@quick_settings(50)
@given(st.integers(1, 40), st.integers(1, 100), st.sets(st.integers(0, 99)), st.sets(st.integers(0, 99)))
def test_what_is_written_is_read_back(tmp_path: Path, block: int, rows: int, blocks: set[int], bad: set[int]) -> None:
    """Blocks of any size, the last one shorter, with any of their rows bad."""
    done = {
        number: {row: f"row {row}" for row in sorted(bad) if number * block <= row < min((number + 1) * block, rows)}
        for number in sorted(blocks)
        if number * block < rows
    }
    text = heading(IDENTITY) + "".join(entry(number, rows_of) for number, rows_of in done.items())
    (tmp_path / "j").write_text(text)
    assert read(tmp_path / "j", IDENTITY, block, rows) == done


def test_rows_end_where_the_file_does(tmp_path: Path) -> None:
    """The fourth block of 30 has rows 90 to 99."""
    head = heading(IDENTITY).strip().encode()
    last, beyond = entry(3, {99: "x"}).encode(), entry(3, {100: "x"}).encode()
    assert _read(tmp_path / "j", head, last) == {3: {99: "x"}}
    assert _read(tmp_path / "j", head, beyond) == {}
    assert _read(tmp_path / "j", head, entry(3, {}).encode()) == {3: {}}
    assert read(tmp_path / "j", IDENTITY, 30, 90) == {}


def test_a_journal_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LvmError, match=rf"^{tmp_path}/j: cannot be read \(No such file"):
        read(tmp_path / "j", IDENTITY, 30, 100)
