"""Where this machine keeps what is made once: measurements, compiled models."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder for what is measured once per machine: $LVM_CACHE, or `lvm_runtime` in the user's cache."""
    if chosen := os.environ.get("LVM_CACHE"):
        return Path(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "lvm_runtime"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lvm_runtime"
