"""Torch devices by name, for the backends and for training."""

from __future__ import annotations

from typing import Any

from lvm_runtime.errors import BackendUnavailable


def import_torch() -> Any:
    """Import torch, or raise BackendUnavailable with the pip command."""
    try:
        import torch
    except ImportError as error:
        raise BackendUnavailable("this needs PyTorch; install it with: pip install 'lvm_runtime[torch]'") from error
    return torch


def torch_device(name: str) -> str:
    """Return the device that `name` (auto, mps, cuda, cpu) means on this machine.

    "auto" takes MPS, then CUDA, then the CPU; a device asked for by name is that device or BackendUnavailable.
    """
    torch = import_torch()
    here = {"mps": torch.backends.mps.is_available(), "cuda": torch.cuda.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device, available in here.items() if available)
    if not here.get(name, False):
        present = ", ".join(device for device, available in here.items() if available)
        raise BackendUnavailable(f"device {name!r} is not available to PyTorch here; available: {present}")
    return name
