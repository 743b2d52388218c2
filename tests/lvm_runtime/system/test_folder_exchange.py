"""Two folders change places, or nothing changes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lvm_runtime.system.folder_exchange import exchange


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="no such call here")
def test_folders_change_places(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"in {name}").touch()
    assert exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a/in b").exists()
    assert (tmp_path / "b/in a").exists()


def test_without_one_of_them_nothing_changes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert not exchange(tmp_path / "a", tmp_path / "b")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
