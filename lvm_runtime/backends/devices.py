"""Torch devices by name, for the backends and for training."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_runtime.errors import BackendUnavailable
from lvm_runtime.system import extras


def import_torch() -> Any:
    """Import torch, or raise BackendUnavailable with the pip command."""
    return extras.require("torch", "this", "torch")


def torch_devices() -> list[str]:
    """Return the devices that PyTorch has here, the preferred one first."""
    torch = import_torch()
    here = {"mps": torch.backends.mps.is_available(), "cuda": torch.cuda.is_available(), "cpu": True}
    return [device for device, available in here.items() if available]


def torch_device(name: str) -> str:
    """Return the device that `name` (auto, mps, cuda, cpu) means on this machine.

    "auto" takes MPS, then CUDA, then the CPU; a device asked for by name is that device or BackendUnavailable.
    """
    present = torch_devices()
    if name == "auto":
        return present[0]
    if name not in present:
        raise BackendUnavailable(f"device {name!r} is not available to PyTorch here; available: {', '.join(present)}")
    return name


def to_tensor(contexts: NDArray[np.float32], device: str) -> Any:
    """Return `contexts` as a tensor on `device`.

    What torch cannot share is copied: read-only arrays, and a lone row of a reversed array, which is contiguous too.
    """
    shared = contexts if contexts.flags.writeable and min(contexts.strides) >= 0 else contexts.copy()
    return import_torch().from_numpy(shared).to(device)


class _Threads:
    """torch's number of threads, lent to runs that need another one.

    Each thread computes with its own number, but `set_num_threads` also sets the one that new threads start with. A
    thread that comes here for the first time may find what a run beside it has set, and takes the number from before.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lent = 0
        self._found = 0
        self._here = threading.local()

    def lend(self, count: int) -> int:
        """Set this thread's number to `count`, and return the one to give back."""
        torch = import_torch()
        with self._lock:
            before: int = torch.get_num_threads()
            if self._lent and not hasattr(self._here, "known"):
                before = self._found
            self._here.known = True
            if not self._lent:
                self._found = before
            self._lent += 1
            if torch.get_num_threads() != count:
                torch.set_num_threads(count)
        return before

    def give_back(self, before: int) -> None:
        """Set this thread's number, and the one that new threads start with, to what they were."""
        torch = import_torch()
        with self._lock:
            self._lent -= 1
            if torch.get_num_threads() != before:
                torch.set_num_threads(before)


_THREADS = _Threads()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_THREADS.__init__)  # type: ignore[misc]


@contextlib.contextmanager
def inference(device: str, threads: int | None) -> Iterator[None]:
    """Run torch without gradients, in full precision, and with `threads` threads for the caller's thread only.

    torch's number of threads is a setting of the process; it is put back, so that a Predictor does not slow down
    training beside it. cuDNN computes recurrent layers in TF32 unless told otherwise.
    """
    torch = import_torch()
    exact = torch.backends.cudnn.flags(allow_tf32=False) if device == "cuda" else contextlib.nullcontext()
    before = None if threads is None else _THREADS.lend(threads)
    try:
        with torch.inference_mode(), exact:
            yield
    finally:
        if before is not None:
            _THREADS.give_back(before)
