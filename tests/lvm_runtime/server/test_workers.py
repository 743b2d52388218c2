"""What the processes of a server share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lvm_runtime import Predictor
from lvm_runtime.server.workers import _is_whole_after_fork


@pytest.mark.parametrize("threads", [1, 2])
def test_workers_share_only_what_keeps_its_threads(threads: int, small_artifacts: Callable[[str], Path]) -> None:
    with Predictor(small_artifacts("amn"), threads=threads) as predictor:
        assert _is_whole_after_fork(predictor) == (threads == 1)
