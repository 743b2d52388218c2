"""A real server in a process of its own, on free ports of this machine; it ends with the test that started it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]


@dataclass
class Running:
    """A server that is ready; `events` are the lines of its log so far."""

    process: subprocess.Popen[str]
    events: list[dict[str, Any]] = field(default_factory=list)
    ready: threading.Event = field(default_factory=threading.Event)

    @property
    def http(self) -> str:
        """Host and port of the REST side."""
        return f"127.0.0.1:{self._listening['http']}"

    @property
    def grpc(self) -> str:
        """Host and port of the gRPC side."""
        return f"127.0.0.1:{self._listening['grpc']}"

    @property
    def _listening(self) -> dict[str, Any]:
        return next(event for event in self.events if event["event"] == "listening")

    def names(self) -> list[str]:
        """Return the names of the events."""
        return [event["event"] for event in self.events]

    def stop(self) -> int:
        """Tell it to stop and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def follow(self) -> None:
        """Take in the log; lines that are no JSON are kept as they are."""
        for line in self.process.stderr or ():
            self.events.append(json.loads(line) if line.startswith("{") else {"event": line.strip()})
            if self.events[-1]["event"] == "ready":
                self.ready.set()
        self.ready.set()


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[Running]:
    """Start `lvm-runtime serve` with the arguments and yield it once it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lvm_runtime", "serve", *arguments, "--http-port", "0", "--grpc-port", "0"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    server = Running(process)
    reader = threading.Thread(target=server.follow)
    reader.start()
    try:
        assert server.ready.wait(60)
        assert "ready" in server.names(), server.events
        yield server
    finally:
        process.kill()
        process.wait()
        reader.join(10)
        if process.stderr is not None:
            process.stderr.close()
