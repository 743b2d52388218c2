"""A Parquet file begins where its footer says, whoever wrote it, and no damage ends in another error."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lvm_runtime.corpus import footer

TABLE = pa.table({"vectors": np.random.default_rng(0).standard_normal((90, 4)).tolist(), "texts": ["PAR1PAR1"] * 90})
WRITERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "row groups": {"row_group_size": 7},
    "page index": {"write_page_index": True, "row_group_size": 40},
    "no dictionaries": {"use_dictionary": False, "compression": "none", "write_statistics": False},
    "format 1.0": {"version": "1.0", "data_page_version": "2.0", "compression": "zstd"},
    "sorted": {"sorting_columns": [pq.SortingColumn(0)], "write_page_checksum": True},
}
WRITTEN = sorted(Path(__file__).with_name("written").glob("*.parquet"))


def _written(table: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def _begin(data: bytes) -> int:
    return footer.begin(io.BytesIO(data))


@pytest.mark.parametrize("rows", [90, 1, 0])
@pytest.mark.parametrize("options", WRITERS.values(), ids=WRITERS.keys())
def test_a_file_begins_after_those_in_front_of_it(options: dict[str, Any], rows: int) -> None:
    data, other = _written(TABLE.slice(0, rows), **options), _written(TABLE.slice(0, 30))
    assert _begin(data) == 0
    for before in (data, other, other * 2, b"a few words", _written(TABLE.slice(0, 0))):
        assert _begin(before + data) == len(before)


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_files_of_other_writers(path: Path) -> None:
    data = path.read_bytes()
    assert _begin(data) == 0
    assert _begin(data * 3) == 2 * len(data)


def test_a_footer_of_no_row_groups_and_long_lists() -> None:
    names = {f"column{i}": [True, None] for i in range(40)}  # the counts of short lists are in their first byte
    data = _written(pa.table(names).replace_schema_metadata({"a": "b" * 300}))
    assert _begin(data) == 0
    assert _begin(data * 2) == len(data)


def test_what_writers_leave_in_front_of_a_footer_is_no_other_file() -> None:
    data = _written(TABLE)
    cut = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    for padding in (b"\0" * 5, b"\0" * 4096, b"PAR1" * 40):
        assert _begin(data[:cut] + padding + data[cut:]) == 0


def test_damaged_footers_say_nothing() -> None:
    data, rng = _written(TABLE, row_group_size=40, write_page_index=True), np.random.default_rng(0)
    length = int.from_bytes(data[-8:-4], "little")
    for _ in range(2000):
        damaged = bytearray(data)
        for place in rng.integers(len(data) - 8 - length, len(data) - 4, rng.integers(1, 5)):
            damaged[place] = rng.integers(256)
        assert _begin(bytes(damaged)) == 0
    assert [_begin(data[:size]) for size in (0, 3, 8, 12)] == [0] * 4
    for filler in (b"\xff", b"\x1c", b"\x19", b"\x15", b"\x1b"):  # endless numbers, structs, lists, maps
        assert _begin(filler * 100_000 + (99_000).to_bytes(4, "little") + b"PAR1") == 0


@pytest.mark.parametrize("kind", [1, 3, 7], ids=["Booleans", "bytes", "doubles"])
def test_a_list_of_values_that_are_not_there_is_not_counted_out(kind: int) -> None:
    """Its count has up to 64 bits, and values of a fixed size need no look at them."""
    with pytest.raises(IndexError, match="beyond the end"):
        footer._Thrift(bytes([0x19, 0xF0 | kind, 0xE8, 0x07])).value(12)  # a list of 1,000
