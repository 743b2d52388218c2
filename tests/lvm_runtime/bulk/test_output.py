"""A Parquet output is written behind the run: in order, whatever block comes first, and whole or not at all."""

from __future__ import annotations

import errno
import gc
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pyarrow import parquet

from lvm_runtime.bulk import output as bulk_output
from lvm_runtime.bulk.destination import Destination
from lvm_runtime.bulk.output import Output, PredictionTable
from lvm_runtime.errors import LvmError

BLOCKS = np.arange(36, dtype=np.float32).reshape(3, 4, 3)


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_output, "_ROWS_AT_ONCE", 4)


def rows(start: int, stop: int) -> NDArray[np.int64]:
    """Return rows that start at 100."""
    return 100 + np.arange(start, stop)


def opened(tmp_path: Path) -> Output:
    """Return the output of a run of three blocks."""
    return Output(Destination(tmp_path / "out.parquet"), 12, 3, 4, {}, rows)


def assert_whole(path: Path) -> None:
    """Compare every row."""
    table = parquet.read_table(path)
    np.testing.assert_array_equal(table["row"].to_numpy(), rows(0, 12))
    np.testing.assert_array_equal(np.stack(table["prediction"].to_numpy()), BLOCKS.reshape(12, 3))


def test_blocks_are_written_behind_the_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add, added, two = PredictionTable.add, list[int](), Event()

    def note(table: PredictionTable, numbers: NDArray[np.int64], predictions: NDArray[np.float32]) -> None:
        add(table, numbers, predictions)
        added.append(int(numbers[0]))
        if len(added) == 2:
            two.set()

    monkeypatch.setattr(PredictionTable, "add", note)
    output = opened(tmp_path)
    output.write(1, BLOCKS[1], {})
    assert output._table is not None
    output._table._thread.submit(int).result()  # after whatever the thread was given before
    assert added == [], "block 0 is not there yet"
    output.write(0, BLOCKS[0], {})
    assert two.wait(60), "the run is not at its end, and two blocks are there"
    assert added == [100, 104]
    output.write(2, BLOCKS[2], {})
    output.finish()
    assert_whole(tmp_path / "out.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_a_run_that_is_stopped_leaves_no_table_and_the_next_one_makes_all_of_it(tmp_path: Path) -> None:
    output = opened(tmp_path)
    for number in (0, 2):
        output.write(number, BLOCKS[number], {})
    output.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet.part", "out.parquet.progress"]
    again = opened(tmp_path)
    assert [number for number, _, _ in again.blocks()] == [1]
    again.write(1, BLOCKS[1], {})
    again.finish()
    assert_whole(tmp_path / "out.parquet")


def test_a_table_that_cannot_be_written_is_an_error_and_the_predictions_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    output = opened(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(PredictionTable, "add", full)
        output.write(0, BLOCKS[0], {})
        with pytest.raises(LvmError, match=r"out\.parquet: cannot be written \(No space left"):
            output.finish()
    assert not (tmp_path / "out.parquet").exists()
    again = opened(tmp_path)
    assert [number for number, _, _ in again.blocks()] == [1, 2]
    for number in (1, 2):
        again.write(number, BLOCKS[number], {})
    again.finish()
    assert_whole(tmp_path / "out.parquet")


def test_a_table_that_cannot_be_opened_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PredictionTable, "__init__", full)
    with pytest.raises(LvmError, match=r"cannot be written \(No space left"):
        opened(tmp_path)
    gc.collect()  # an open file is a warning then, and a warning is an error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet.part", "out.parquet.progress"]
