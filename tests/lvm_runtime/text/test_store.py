"""The file of pieces that an interrupted embedding goes on with."""

from __future__ import annotations

import errno
import gc
from pathlib import Path
from typing import Any

import pytest

from lvm_runtime.errors import WriteFailed
from lvm_runtime.text.store import Store


def test_a_store_that_a_full_disk_cannot_take_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Store, "_scan", full)
    with pytest.raises(WriteFailed, match="No space left"):
        Store(tmp_path / "o.npz.part", 4, {}, lambda made: True)
    gc.collect()  # an open file is a warning then, and a warning is an error
