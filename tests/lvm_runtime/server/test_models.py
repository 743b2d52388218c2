"""The models of a server in this process."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

from lvm_runtime import Request
from lvm_runtime.server.metrics import Metrics
from lvm_runtime.server.models import Models
from lvm_runtime.server.options import ModelSpec, ServerOptions

Get = Callable[[str], Path]


def test_a_failed_reload_leaves_the_drift_of_what_is_served(small_artifacts: Get, tmp_path: Path) -> None:
    for name in ("first", "second"):
        shutil.copytree(small_artifacts("amn"), tmp_path / name)
    metrics = Metrics()
    specs = [ModelSpec(name, "1", tmp_path / name) for name in ("first", "second")]
    models = Models(specs, Request(threads=1), ServerOptions(), metrics)
    models.load()
    before = metrics.text()
    shutil.rmtree(tmp_path / "first")
    shutil.copytree(small_artifacts("lstm"), tmp_path / "first")
    (tmp_path / "second" / "manifest.json").unlink()
    asyncio.run(models.reload())
    assert metrics.text() == before
    models.close()
