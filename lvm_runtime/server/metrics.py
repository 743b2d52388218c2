"""Prometheus metrics of the server, of all its worker processes together.

With several workers PROMETHEUS_MULTIPROC_DIR names the folder that they share; prometheus_client reads it when it is
imported.
"""

from __future__ import annotations

import os
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_CONTEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_MODEL = ("model", "version")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """What is counted; `of` binds it to a model."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        own: Any = {"registry": self._registry}
        self.requests = Counter("lvm_requests", "Requests answered", (*_MODEL, "protocol", "status"), **own)
        self.contexts = Counter("lvm_contexts", "Contexts predicted", _MODEL, **own)
        self.batch = Histogram("lvm_batch_contexts", "Contexts of a batch", _MODEL, buckets=_CONTEXTS, **own)
        self.compute = Histogram("lvm_batch_seconds", "Time of the model for a batch", _MODEL, buckets=_SECONDS, **own)
        self.latency = Histogram(
            "lvm_request_seconds", "Time from a request's tensors to its answer", _MODEL, buckets=_SECONDS, **own
        )
        self.queue = Gauge(
            "lvm_queue_contexts", "Contexts waiting or running", _MODEL, multiprocess_mode="livesum", **own
        )
        self.drift = Gauge(
            "lvm_drift",
            "Largest 1 - cosine to the known answers at load",
            _MODEL,
            multiprocess_mode="livemostrecent",  # the process that started the workers loaded older models
            **own,
        )

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together)
        return generate_latest(together)
