"""Torch devices by name, for the backends and for training."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
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


class _FullPrecision:
    """Products of float32 that are computed in float32 while a run is under way, whatever torch was told for training.

    `torch.set_float32_matmul_precision` and what it sets for each kind of hardware count for the whole process. With
    "medium", answers differed by 7e-3 on a CPU with bfloat16.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._set_back: Callable[[], None] | None = None

    def begin(self, torch: Any) -> None:
        """Raise the precision if it is lower; another thread may have lowered it since the last run began."""
        with self._lock:
            self._inside += 1
            self._set_back = _raise_precision(torch) or self._set_back

    def end(self) -> None:
        """Set what was found once nobody runs any more."""
        with self._lock:
            self._inside -= 1
            if not self._inside and self._set_back is not None:
                self._set_back()
                self._set_back = None


def _raise_precision(torch: Any) -> Callable[[], None] | None:
    """Have float32 multiplied in float32; return what sets back what was found, None if it was so already."""
    try:
        found = torch.get_float32_matmul_precision()
    except RuntimeError:  # it was set for one kind of hardware alone
        found = None
    if found == "highest":
        return None
    if not hasattr(torch.backends.mkldnn, "matmul"):  # before torch 2.9
        torch.set_float32_matmul_precision("highest")
        return partial(torch.set_float32_matmul_precision, found)
    kinds = [(kind, kind.fp32_precision) for kind in (torch.backends.mkldnn.matmul, torch.backends.cuda.matmul)]
    lowered = [(kind, precision) for kind, precision in kinds if precision not in ("ieee", "none")]
    for kind, _ in lowered:
        kind.fp32_precision = "ieee"

    def set_back() -> None:
        for kind, precision in lowered:
            kind.fp32_precision = precision

    return set_back if lowered else None


_THREADS = _Threads()
_PRECISION = _FullPrecision()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_THREADS.__init__)  # type: ignore[misc]
    os.register_at_fork(after_in_child=_PRECISION.__init__)  # type: ignore[misc]


@contextlib.contextmanager
def inference(device: str, threads: int | None) -> Iterator[None]:
    """Run torch without gradients, in full precision, and with `threads` threads for the caller's thread only.

    torch's number of threads and its precision are settings of the process; they are put back, so that a Predictor does
    not slow down training beside it. Nor does the caller's autocast count. cuDNN computes recurrent layers in TF32
    unless told otherwise.
    """
    torch = import_torch()
    exact = torch.backends.cudnn.flags(allow_tf32=False) if device == "cuda" else contextlib.nullcontext()
    cast = torch.is_autocast_enabled(device)
    plain = torch.autocast(device, enabled=False) if cast else contextlib.nullcontext()
    before = None if threads is None else _THREADS.lend(threads)
    _PRECISION.begin(torch)
    try:
        with torch.inference_mode(), exact, plain:
            yield
    finally:
        _PRECISION.end()
        if before is not None:
            _THREADS.give_back(before)
