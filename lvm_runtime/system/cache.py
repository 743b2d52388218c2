"""Where this machine keeps what is made once: measurements, compiled models."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path | None:
    """Return the folder for what is measured once per machine: $LVM_CACHE, or `lvm_runtime` in the user's cache.

    None for a user without a home (no $HOME and no entry in the list of users): nothing is kept then.
    """
    if chosen := os.environ.get("LVM_CACHE"):
        return Path(chosen)
    try:
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "lvm_runtime"
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lvm_runtime"
    except RuntimeError:  # what Path.home() raises
        return None
