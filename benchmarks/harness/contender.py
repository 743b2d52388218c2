"""One way to run a model, as the benchmarks see it: a form that this project serves, or a peer that it has to beat.

A contender knows by itself whether this machine can run it, so that the list of what was measured and
the list of what was not, with the reason, come from one place.

B batch, T context length, D vector.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.workload import Workload
from lvm_runtime.backends.openvino import has_bf16

Array = NDArray[np.float32]
Runner = Callable[[Array], Array]
"""Contexts `[B, T, D]` to predictions `[B, D]`, host memory to host memory, whatever lies between."""
Build = Callable[[Workload, "int | None"], Runner]

ANCHOR = "peer-onnxruntime-fp32"
"""The peer that is always measured: the training form exported as it is and run by onnxruntime."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to run a model. `backend` is what `--backend` selects; `missing` says why it cannot run here, or None.

    `build(workload, threads)` returns a runner; `threads` is None where the runtime is not the CPU's.
    """

    name: str
    backend: str
    precision: str
    device: str
    build: Build
    missing: Callable[[], str | None]
    ours: bool = False

    @property
    def takes_threads(self) -> bool:
        """Whether its number of threads is ours to choose; accelerators and Core ML choose for themselves."""
        return self.device == "cpu" and self.backend != "coreml"


def needs(*modules: str) -> Callable[[], str | None]:
    """Return a check that names the first of `modules` that is not installed."""

    def missing() -> str | None:
        return next((f"{name} is not installed" for name in modules if find_spec(name) is None), None)

    return missing


def bf16_in_openvino() -> str | None:
    """Say why OpenVINO cannot compute in bf16 here, or None; asked for it all the same, it computes in fp32."""
    if problem := needs("openvino", "onnx")():
        return problem
    return None if has_bf16() else "this CPU has no bf16; OpenVINO would compute in fp32"


def torch_on(device: str) -> Callable[[], str | None]:
    """Return a check for PyTorch on `device` (cuda or mps)."""

    def missing() -> str | None:
        if problem := needs("torch")():
            return problem
        import torch

        here: Any = torch.cuda if device == "cuda" else torch.backends.mps
        return None if here.is_available() else f"PyTorch has no {device} here"

    return missing


def onnxruntime_on(provider: str) -> Callable[[], str | None]:
    """Return a check for an execution provider of onnxruntime."""

    def missing() -> str | None:
        if problem := needs("onnxruntime")():
            return problem
        import onnxruntime

        present = onnxruntime.get_available_providers()
        return None if provider in present else f"this onnxruntime has {', '.join(present)} and no {provider}"

    return missing


def macos() -> str | None:
    """Say what keeps Core ML from running here, or None."""
    if platform.system() != "Darwin":
        return f"Core ML runs on macOS only, and this is {platform.system()}"
    return needs("coremltools")()
