"""What the backends on PyTorch share: devices, threads, and a model called on tensors."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from lvm_runtime.backends.base import Array, Backend
from lvm_runtime.backends.devices import inference, lent_threads, to_tensor, torch_device, torch_devices
from lvm_runtime.errors import BackendUnavailable
from lvm_runtime.system import extras
from lvm_runtime.system.cpus import usable_cpus
from lvm_runtime.system.imports import inherited


class TorchBackend(Backend):
    """A model in float32 on MPS, CUDA or the CPU."""

    framework: ClassVar[str] = "torch"
    install: ClassVar[str] = extras.pip_command("torch")
    precisions: ClassVar[tuple[str, ...] | None] = ("fp32",)

    def __init__(
        self, source: Path, *, device: str = "auto", threads: int | None = None, precision: str | None = None
    ) -> None:
        self._torch = self.load_framework()
        self.precision = self.arithmetic(precision)
        self.device = torch_device(device)
        self.threads = self._able_threads(threads)
        with lent_threads(self.threads):  # weights are filled in and copied by several, too
            self._load(source)

    def _able_threads(self, asked: int | None) -> int:
        """Return how many threads a run takes: one where this thread has forked the process, with torch in it.

        If torch had run in it, its threads of OpenMP are in the parent, and a run would wait for them. Other threads of
        the child get their own.
        """
        if self.device != "cpu" or not inherited("torch"):
            return asked or usable_cpus()
        if asked is not None and asked > 1:
            raise BackendUnavailable(
                f"backend {self.name} has one thread in a process that was forked after torch was imported, and "
                f"{asked} were asked for; leave out threads, build it in another thread, or spawn the process"
            )
        return 1

    @classmethod
    def devices(cls) -> list[str]:
        """Return the devices that PyTorch has here."""
        cls.load_framework()
        return torch_devices()

    def after_fork(self) -> None:
        """Run on one thread; the threads of OpenMP are in the parent, and waiting for them would never end."""
        if self.device != "cpu" or self.slow_to_build:
            super().after_fork()
        self.threads = 1

    @abstractmethod
    def _load(self, source: Path) -> None:
        """Load the model from `source` onto the device."""

    @abstractmethod
    def _call(self, contexts: Any, attention: bool) -> tuple[Any, ...]:
        """Return the model's outputs for a tensor `[b, T, D]`: predictions, and attention where it is asked for."""

    def _outputs(self, contexts: Array, attention: bool) -> list[Array]:
        """Return the model's outputs in numpy's own memory.

        PyTorch lets go of the interpreter lock to free a tensor, and a thread that does so while the interpreter
        exits aborts the process. An array over a tensor's memory would carry that out of the guard.
        """
        with inference(self.device, self.threads):
            outputs = self._call(to_tensor(contexts, self.device), attention)
            return [output.cpu().numpy().copy() for output in outputs]

    def run(self, contexts: Array) -> Array:
        """Return predictions `[b, D]`."""
        return self._outputs(contexts, attention=False)[0]

    def run_with_attention(self, contexts: Array) -> tuple[Array, Array]:
        """Return predictions `[b, D]` and attention `[b, T]`."""
        predictions, attention = self._outputs(contexts, attention=True)
        return predictions, attention
