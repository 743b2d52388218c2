"""What this machine can run, and what a run has promised to run.

`LVM_PROMISED=coreml,mps` promises backends: their tests then fail where the backend is missing. Without
the promise such tests are skipped, and the summary says so.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable

import pytest


def _has_mps() -> bool:
    import torch

    return torch.backends.mps.is_available()


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


AVAILABLE: dict[str, Callable[[], bool]] = {
    "coreml": lambda: platform.system() == "Darwin",
    "mps": _has_mps,
    "cuda": _has_cuda,
}


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a promise that names no known backend."""
    if unknown := sorted(_promised() - set(AVAILABLE)):
        raise pytest.UsageError(f"LVM_PROMISED names {unknown[0]!r}; known: {', '.join(AVAILABLE)}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose backend is absent, or fail it if the run promised that backend."""
    for name, available in AVAILABLE.items():
        if item.get_closest_marker(name) and not available():
            if name in _promised():
                pytest.fail(f"this run promised {name}, and it is not available here", pytrace=False)
            pytest.skip(f"{name} is not available here")


def _promised() -> set[str]:
    return set(filter(None, os.environ.get("LVM_PROMISED", "").split(",")))
