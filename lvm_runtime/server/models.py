"""The models that are served: each a Predictor that passed its known-answer test, behind a Batcher.

A reload builds the new Predictor beside the old one and then takes its place. What the old one has accepted it answers.

B contexts of a request, b of a batch, T context length, D vector.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.batcher import Batcher
from lvm_runtime.bulk.predict import open_with_threads
from lvm_runtime.contexts import Array, usable_float32
from lvm_runtime.errors import LvmError
from lvm_runtime.predictor import Predictor
from lvm_runtime.request import Request
from lvm_runtime.server.event_loop_batcher import EventLoopBatcher
from lvm_runtime.server.failures import Failure, Refused
from lvm_runtime.server.metrics import Metrics
from lvm_runtime.server.options import ModelSpec, ServerOptions
from lvm_runtime.server.protocol import ATTENTION, PREDICTION, check_contexts, check_outputs
from lvm_runtime.server.statistics import Statistics
from lvm_runtime.system.cpus import usable_cpus

_log = logging.getLogger("lvm_runtime.server")


class ServedModel:
    """One version of a model: its Predictor, and what batches the requests for predictions alone and with attention."""

    def __init__(self, spec: ModelSpec, predictor: Predictor, options: ServerOptions, metrics: Metrics) -> None:
        self.spec, self.predictor, self.config = spec, predictor, predictor.config
        self.statistics = Statistics()
        self._options = options
        self._batchers: dict[bool, EventLoopBatcher] = {}
        labels = (spec.name, spec.version)
        self._requests = metrics.requests
        self._contexts = metrics.contexts.labels(*labels)
        self._batch, self._compute = metrics.batch.labels(*labels), metrics.compute.labels(*labels)
        self._latency, self._queue = metrics.latency.labels(*labels), metrics.queue.labels(*labels)
        self._counters: dict[tuple[str, int], Any] = {}

    async def infer(self, contexts: NDArray[Any], outputs: list[str], *, staggered: bool = False) -> dict[str, Array]:
        """Return the outputs by name for contexts `[B, T, D]` of any float type: `[B, D]`, and `[B, T]`.

        Raises InvalidInput with the first bad row, and Refused when the queue is full. Nothing is awaited before the
        batcher has the request, so that a reload or a stop finds it either accepted or refused. `staggered` is what
        `EventLoopBatcher.predict` says.
        """
        attention = check_outputs(self.config, outputs)
        check_contexts(self.config, contexts, self._options.max_request)
        began, count = time.perf_counter(), len(contexts)
        if count:
            answer = await self._submit(contexts, attention, staggered)
        else:
            answer = np.empty((0, self.config.dim + (self.config.context_length if attention else 0)), np.float32)
        taken = time.perf_counter() - began
        self._latency.observe(taken)
        self._contexts.inc(count)
        self.statistics.succeeded(count, taken)
        found = {PREDICTION: answer[:, : self.config.dim], ATTENTION: answer[:, self.config.dim :]}
        return {name: found[name] for name in outputs}

    def count(self, protocol: str, status: int) -> None:
        """Count a request that was answered with an HTTP status, or the one that a gRPC status stands for."""
        counter = self._counters.get((protocol, status))
        if counter is None:
            counter = self._requests.labels(self.spec.name, self.spec.version, protocol, str(status))
            self._counters[protocol, status] = counter
        counter.inc()
        if status != 200:
            self.statistics.failed()

    async def _submit(self, contexts: NDArray[Any], attention: bool, staggered: bool) -> Array:
        batcher = self._batchers.get(attention) or self._start(attention)
        pending = sum(each.pending for each in self._batchers.values())
        if pending + len(contexts) > self._options.max_queue:
            raise Refused(Failure.BUSY, f"{pending} contexts are waiting; try again later")
        self._queue.inc(len(contexts))
        try:
            return await batcher.predict(contexts, staggered=staggered)
        finally:
            self._queue.dec(len(contexts))

    def _start(self, attention: bool) -> EventLoopBatcher:
        """Make what batches when the first request comes: a thread does not live through a fork."""

        def run(contexts: NDArray[Any]) -> Array:
            began = time.perf_counter()
            answers = self._predict(contexts, attention)
            seconds = time.perf_counter() - began
            self._batch.observe(len(contexts))
            self._compute.observe(seconds)
            self.statistics.ran(len(contexts), seconds)
            batcher.learn(len(contexts), seconds)
            return answers

        check = partial(usable_float32, largest_norm=self.predictor.largest_norm)
        threaded = Batcher(
            check,
            run,
            max_batch=self._options.max_batch,
            max_delay_ms=self._options.max_delay_ms,
            max_pending=self._options.max_queue + self._options.max_request,  # `_submit` refuses before
            adaptive=True,
            whole=True,
            deliver=asyncio.get_running_loop().call_soon_threadsafe,
        )
        batcher = self._batchers[attention] = EventLoopBatcher(check, run, threaded)
        return batcher

    def _predict(self, contexts: NDArray[Any], attention: bool) -> Array:
        if attention:
            return np.concatenate(self.predictor.predict(contexts, return_attention=True), axis=1)
        predictions: Array = self.predictor.predict(contexts)
        return predictions

    def settle(self) -> None:
        """Run what came in this turn of the event loop, or hand it over; called on the loop before a close."""
        for batcher in self._batchers.values():
            batcher.settle()

    def close(self) -> None:
        """Answer what was accepted, then release the Predictor."""
        for batcher in self._batchers.values():
            batcher.close()
        self.predictor.close()


class Models:
    """The models by name and version. `ready` once each has passed its known-answer test."""

    def __init__(self, specs: Iterable[ModelSpec], request: Request, options: ServerOptions, metrics: Metrics) -> None:
        self.specs, self._request, self._options, self._metrics = list(specs), request, options, metrics
        self._served: dict[str, dict[str, ServedModel]] = {}
        self._newest: dict[str, ServedModel] = {}
        self._turn, self._asked = asyncio.Lock(), False  # of those that load; whether a reload waits for its own
        self.ready = False
        self.opening: ModelSpec | None = None  # what was opened last, and may have failed
        self.outdated = False  # in a worker that starts after the others have loaded again

    def load(self) -> None:
        """Build every model; nothing is served before."""
        self._take_over(self._build())

    async def load_first(self) -> None:
        """Do what `load` does, in a thread."""
        async with self._turn:
            await asyncio.get_running_loop().run_in_executor(None, self.load)

    async def reload(self) -> None:
        """Load again, after what is being loaded; when that fails, the old models go on, and the log says why.

        A load that began earlier and took longer would bring back older models. The new models take over on the event
        loop, which finds a model and hands it a request in one go: no request goes to a model that is being closed.
        """
        if self._asked:
            return  # the one that waits will read what is there by then
        self._asked = True
        async with self._turn:
            self._asked = False
            loop = asyncio.get_running_loop()
            try:
                fresh = await loop.run_in_executor(None, self._build)
            except Exception as error:
                usual = isinstance(error, LvmError | OSError)
                _log.error("reload failed, the models before go on: %s", error, exc_info=not usual)
                return
            for model in self._take_over(fresh):
                model.settle()
                await loop.run_in_executor(None, model.close)

    def _build(self) -> list[ServedModel]:
        return [ServedModel(spec, self._open(spec), self._options, self._metrics) for spec in self.specs]

    def _take_over(self, fresh: list[ServedModel]) -> list[ServedModel]:
        """Serve the `fresh` models and return those that were served before."""
        old, self._served = list(self), _by_name(fresh)
        self._newest = {name: versions[max(versions, key=int)] for name, versions in self._served.items()}
        self.ready = True
        for model in fresh:
            running = model.predictor.explain().running
            labels = {"model": model.spec.name, "version": model.spec.version}
            self._metrics.drift.labels(**labels).set(running.drift)
            _log.info("loaded", extra=labels | {"running": str(running)})
        return old

    def get(self, name: str, version: str | None) -> ServedModel:
        """Return a model, without a `version` its highest; Refused if there is none."""
        versions = self._served.get(name)
        if versions is None:
            raise Refused(Failure.UNKNOWN, f"no model {name!r:.99}; there are {', '.join(sorted(self._served))}")
        if not version:
            return self._newest[name]
        if version not in versions:
            raise Refused(Failure.UNKNOWN, f"model {name} has no version {version!r:.99}, only {', '.join(versions)}")
        return versions[version]

    def versions(self, name: str) -> list[str]:
        """Return the versions of a model."""
        return sorted(self._served.get(name, {}), key=int)

    def __iter__(self) -> Any:
        return (model for versions in self._served.values() for model in versions.values())

    def close(self) -> None:
        """Answer what was accepted and release everything."""
        for model in self:
            model.settle()
            model.close()

    def _open(self, spec: ModelSpec) -> Predictor:
        """Open a Predictor on this process's share of the CPUs, of which one is left to the sockets."""
        self.opening = spec
        threads = max(1, usable_cpus() // self._options.workers - 1)
        return open_with_threads(spec.path, self._request, threads)


def _by_name(models: list[ServedModel]) -> dict[str, dict[str, ServedModel]]:
    found: dict[str, dict[str, ServedModel]] = {}
    for model in models:
        found.setdefault(model.spec.name, {})[model.spec.version] = model
    return found
