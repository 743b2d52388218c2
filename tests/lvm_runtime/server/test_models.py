"""The models of a server in this process."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lvm_runtime import Request
from lvm_runtime.server.failures import Refused
from lvm_runtime.server.metrics import Metrics
from lvm_runtime.server.models import Models
from lvm_runtime.server.options import ModelSpec, ServerOptions
from tests.artifacts import some_contexts

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


def test_a_full_queue_refuses_and_goes_on(small_artifacts: Get) -> None:
    metrics, options = Metrics(), ServerOptions(max_request=4, max_queue=4, max_batch=1, max_delay_ms=0)
    models = Models([ModelSpec("amn", "1", small_artifacts("amn"))], Request(threads=1), options, metrics)
    models.load()
    model = models.get("amn", None)
    begun, gate, predict = threading.Semaphore(0), threading.Event(), model.predictor.predict

    def wait(contexts: Any, **options: Any) -> Any:
        begun.release()
        assert gate.wait(20)
        return predict(contexts, **options)

    model.predictor.predict = wait  # type: ignore[assignment]

    async def ask() -> list[Any]:
        kinds, contexts = ("prediction", "attention"), some_contexts(1)
        running = [asyncio.ensure_future(model.infer(contexts, [kind])) for kind in kinds]
        for _ in kinds:
            await asyncio.to_thread(begun.acquire, timeout=20)
        waiting = [asyncio.ensure_future(model.infer(contexts, [kind])) for kind in kinds * 2]
        await asyncio.sleep(0)
        for kind in kinds:
            with pytest.raises(Refused, match="4 contexts are waiting"):
                await model.infer(contexts, [kind])
        gate.set()
        return await asyncio.gather(*running, *waiting)

    assert len(asyncio.run(ask())) == 6
    models.close()
