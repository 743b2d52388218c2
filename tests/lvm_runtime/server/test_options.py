"""What the command line may say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lvm_runtime.errors import InvalidInput
from lvm_runtime.server.options import ModelSpec


@pytest.mark.parametrize("version", ["01", "00", "9" * 5000, "1" * 19])
def test_a_version_is_written_in_one_way(version: str, small_artifacts: Callable[[str], Path]) -> None:
    path = small_artifacts("amn")
    with pytest.raises(InvalidInput, match=r"version '\d+.*, expected at most 18 digits and no leading zero") as told:
        ModelSpec.parse(f"amn:{version}={path}")
    assert len(str(told.value)) < 300
    for good in ("0", "1", "20", "9" * 18):
        assert ModelSpec.parse(f"amn:{good}={path}").version == good
