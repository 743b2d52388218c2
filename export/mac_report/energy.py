"""Energy by macOS' `powermetrics`, where it may be read: it needs root."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence

MILLISECONDS = 1500
"""How long powermetrics averages."""
_COMBINED = re.compile(r"^Combined Power [^:]*: (\d+) mW", re.MULTILINE)
_PART = re.compile(r"^(?:CPU|GPU|ANE) Power: (\d+) mW", re.MULTILINE)


class Power:
    """Reads the power of CPU, GPU and Neural Engine with `command`, powermetrics with what is needed to run it."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = (*command, "--samplers", "cpu_power", "-i", str(MILLISECONDS), "-n", "1")

    def millijoules(self, run: Callable[[], object], rows: int) -> float:
        """Return the energy of a prediction while `run` predicts `rows` of them again and again.

        What the chip needs at rest is part of it. Raises RuntimeError if powermetrics says no power.
        """
        process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        began, calls = time.perf_counter(), 0
        while process.poll() is None:
            run()
            calls += 1
        seconds = time.perf_counter() - began
        said, _ = process.communicate()
        found = _COMBINED.findall(said)[-1:] or _PART.findall(said)
        if process.returncode or not found:
            raise RuntimeError(f"{' '.join(self._command)} says no power: {said.strip()[-200:]!r}")
        return sum(map(int, found)) * seconds / (calls * rows)


def find_power() -> tuple[Power | None, str]:
    """Return what reads the power here, or None and why."""
    powermetrics = shutil.which("powermetrics")
    if powermetrics is None:
        return None, "energy: powermetrics is not here"
    if os.geteuid() == 0:
        return Power((powermetrics,)), ""
    sudo = shutil.which("sudo")
    if sudo and subprocess.run((sudo, "-n", "true"), capture_output=True, check=False).returncode == 0:
        return Power((sudo, "-n", powermetrics)), ""
    return None, "energy: powermetrics needs root; run `sudo -v` just before the report"
