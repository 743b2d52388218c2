"""What a run does with its terminal: progress bars on stderr, and a Ctrl-C that waits for the end of the step."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType
from typing import Any

from tqdm import tqdm


def progress_bar(total: int, name: str, unit: str, *, initial: int = 0) -> Any:
    """Return a bar with rate and ETA; silent where stderr is no terminal and for work of a second or so."""
    return tqdm(
        total=total,
        desc=name,
        unit=unit,
        unit_scale=True,
        initial=initial,
        delay=1.0,
        leave=False,
        dynamic_ncols=True,
        disable=not sys.stderr.isatty(),
    )


class Interruption:
    """Turns the first Ctrl-C, or a SIGTERM, into a request that the loop looks at; a second Ctrl-C stops at once.

    Another SIGTERM is no second request: under torchrun a process gets one from the service manager and one from it.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in {signal.SIGINT, getattr(signal, "SIGTERM", signal.SIGINT)}:
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.requested = True
        with suppress(OSError):  # past Python's own buffer, which the loop may be writing to
            os.write(2, b"\n" * os.isatty(2) + b"stopping within a few steps; Ctrl-C again stops at once\n")
