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
    """float32 that is computed in float32 while a run is under way, whatever torch was told for training.

    `torch.set_float32_matmul_precision` and what it sets for each kind of hardware count for the whole process. With
    "medium", answers differed by 7e-3 on a CPU with bfloat16. cuDNN computes recurrent layers in TF32 unless told
    otherwise; on an H200 an LSTM's answers differed by 1.4e-4.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._set_back: dict[str, Callable[[], None]] = {}

    def begin(self, torch: Any, device: str) -> None:
        """Raise the precision if it is lower; another thread may have lowered it since the last run began."""
        with self._lock:
            self._inside += 1
            for name, raise_precision in (("products", _raise_products), ("cudnn", _raise_cudnn)):
                if (name == "products" or device == "cuda") and (set_back := raise_precision(torch)):
                    self._set_back[name] = set_back

    def end(self) -> None:
        """Set what was found once nobody runs any more."""
        with self._lock:
            self._inside -= 1
            if not self._inside:
                for set_back in self._set_back.values():
                    set_back()
                self._set_back.clear()


def _raise_products(torch: Any) -> Callable[[], None] | None:
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
    return _raise_kinds(torch.backends.mkldnn.matmul, torch.backends.cuda.matmul)


def _raise_cudnn(torch: Any) -> Callable[[], None] | None:
    """Do the same for the recurrent layers of cuDNN, through the old setting where it can be read.

    Whoever reads the old one meanwhile would get an error where only new ones were set.
    """
    cudnn = torch.backends.cudnn
    try:
        lowered = cudnn.allow_tf32
    except RuntimeError:  # recurrent layers and convolutions were set apart
        return _raise_kinds(cudnn.rnn)
    if not lowered:
        return None
    cudnn.allow_tf32 = False
    set_back = partial(setattr, cudnn, "allow_tf32", True)
    if getattr(getattr(cudnn, "rnn", None), "fp32_precision", "ieee") == "tf32":  # from a setting for everything
        set_back()
        return _raise_kinds(cudnn.rnn, cudnn.conv)
    return set_back


def _raise_kinds(*kinds: Any) -> Callable[[], None] | None:
    lowered = [(kind, found) for kind in kinds if (found := kind.fp32_precision) not in ("ieee", "none")]
    for kind, _ in lowered:
        kind.fp32_precision = "ieee"

    def set_back() -> None:
        for kind, found in lowered:
            kind.fp32_precision = "none"  # which follows the setting for everything
            if kind.fp32_precision != found:
                kind.fp32_precision = found

    return set_back if lowered else None


_THREADS = _Threads()
_PRECISION = _FullPrecision()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_THREADS.__init__)  # type: ignore[misc]
    os.register_at_fork(after_in_child=_PRECISION.__init__)  # type: ignore[misc]


@contextlib.contextmanager
def lent_threads(count: int) -> Iterator[None]:
    """Run what is in the body on `count` threads of torch, for the caller's thread only."""
    before = _THREADS.lend(count)
    try:
        yield
    finally:
        _THREADS.give_back(before)


@contextlib.contextmanager
def inference(device: str, threads: int | None) -> Iterator[None]:
    """Run torch without gradients, in full precision, and with `threads` threads for the caller's thread only.

    torch's number of threads and its precision are settings of the process; they are put back, so that a Predictor does
    not slow down training beside it. Nor does the caller's autocast count.
    """
    torch = import_torch()
    plain = torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else contextlib.nullcontext()
    lent = contextlib.nullcontext() if threads is None else lent_threads(threads)
    _PRECISION.begin(torch, device)
    try:
        with lent, torch.inference_mode(), plain:
            yield
    finally:
        _PRECISION.end()


@contextlib.contextmanager
def usual_defaults() -> Iterator[None]:
    """Let tensors be on the CPU and in float32 where nothing else is said, whatever a program made torch's defaults.

    The default dtype is a setting of the process, which is put back; the default device is one of the thread.
    """
    torch = import_torch()
    dtype, elsewhere = torch.get_default_dtype(), torch.get_default_device().type != "cpu"
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu") if elsewhere else contextlib.nullcontext():  # each call costs more with it
            yield
    finally:
        torch.set_default_dtype(dtype)
