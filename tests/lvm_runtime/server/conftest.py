"""The server that most tests of this folder ask, and what its model answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lvm_runtime import Predictor
from tests.lvm_runtime.server.serving import Running, serving


@pytest.fixture(scope="module")
def server(small_artifacts: Callable[[str], Path]) -> Iterator[Running]:
    """Return a server of an AMN, and an LSTM as versions 1 and 2 of "recurrent", with short times and low limits."""
    lstm = small_artifacts("lstm")
    limits = ("--max-body", "300000", "--max-request", "200", "--max-queue", "400", "--timeout", "2", "--drain", "0")
    models = (str(small_artifacts("amn")), f"recurrent:1={lstm}", f"recurrent:2={lstm}")
    with serving(*models, *limits, "--log-requests") as running:
        yield running


@pytest.fixture(scope="module")
def predictor(small_artifacts: Callable[[str], Path]) -> Iterator[Any]:
    """Return the Predictor of the served AMN."""
    with Predictor(small_artifacts("amn"), threads=1) as predictor:
        yield predictor
