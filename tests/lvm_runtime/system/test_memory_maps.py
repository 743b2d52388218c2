"""Handing back the pages of mapped files, and never those that hold the only copy."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lvm_runtime import Predictor
from lvm_runtime.system.memory_maps import mapping_of, release
from tests.artifacts import some_contexts


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_only_shared_mappings_are_released(tmp_path: Path, mode: Any) -> None:
    np.save(tmp_path / "a.npy", np.zeros((100, 5, 16), np.float32))
    array = np.load(tmp_path / "a.npy", mmap_mode=mode)
    for one in (array, array[7:], array.transpose(1, 0, 2), np.asarray(array)[None]):
        assert (mapping_of(one) is None) == (mode == "c")
    assert mapping_of(np.zeros(3)) is None


def test_what_was_written_stays(tmp_path: Path) -> None:
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.float32, (5000, 16))
    out[:] = 7
    release(mapping_of(out))
    assert (out == 7).all()
    out[10] = 8
    release(mapping_of(out))
    out.flush()
    assert np.load(tmp_path / "out.npy")[9:12, 0].tolist() == [7, 8, 7]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems may keep pages that they are told to release")
def test_a_part_is_released_without_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "pages").write_bytes(bytes(64 * mmap.PAGESIZE))
    with (tmp_path / "pages").open("rb") as file:
        private = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # which forgets changes to what is released
    pages = np.frombuffer(private, np.uint8).reshape(64, mmap.PAGESIZE)
    pages[:] = 1
    release(private, 20 * mmap.PAGESIZE + 7, 30 * mmap.PAGESIZE)
    assert pages.all(axis=1).tolist() == [not 20 <= page < 30 for page in range(64)]


@pytest.mark.parametrize("kind", ["contexts", "document"])
def test_from_mapping_to_mapping(small_artifacts: Callable[[str], Path], tmp_path: Path, kind: str) -> None:
    values = some_contexts(9000) if kind == "contexts" else some_contexts(1, length=9000)[0]
    np.save(tmp_path / "in.npy", values)
    source = np.load(tmp_path / "in.npy", mmap_mode="r")
    count = 9000 if kind == "contexts" else 8996
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.float32, (count, 16))
    with Predictor(small_artifacts("amn")) as predictor:
        call = predictor.predict if kind == "contexts" else predictor.predict_sequence
        assert call(source, out=out) is out
        np.testing.assert_array_equal(out, call(values))
