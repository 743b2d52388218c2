"""Torch devices by name, for the backends and for training."""

from __future__ import annotations

import contextlib
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
    """Return `contexts` as a tensor on `device`; read-only arrays, which torch cannot share, are copied."""
    shared = contexts if contexts.flags.writeable else contexts.copy()
    return import_torch().from_numpy(shared).to(device)


@contextlib.contextmanager
def inference(device: str, threads: int | None) -> Iterator[None]:
    """Run torch without gradients, in full precision, and with `threads` threads for the caller's thread only.

    torch's number of threads is a setting of the process; it is put back, so that a Predictor does not slow down
    training beside it. cuDNN computes recurrent layers in TF32 unless told otherwise.
    """
    torch = import_torch()
    before = torch.get_num_threads()
    exact = torch.backends.cudnn.flags(allow_tf32=False) if device == "cuda" else contextlib.nullcontext()
    if threads is not None and threads != before:
        torch.set_num_threads(threads)
    try:
        with torch.inference_mode(), exact:
            yield
    finally:
        if threads is not None and threads != before:
            torch.set_num_threads(before)
