"""One process or several, through Hugging Face Accelerate.

Under a launcher (`torchrun` or `accelerate launch`) every process holds the whole corpus, takes its share
of each global batch, and gradients are averaged. Without a launcher nothing of this is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from lvm_runtime.errors import InvalidInput, LvmError, one_line
from lvm_runtime.system import extras

_CAUSE = "lvm_runtime/cause"
"""The key, in the store through which the processes met, of what ended the first one that failed."""


class ProcessLost(LvmError):
    """Another process of a run ended, so this one had nobody to go on with."""


def _world_size() -> int:
    """Return how many processes a launcher started, 1 without one; InvalidInput if it left out how they meet."""
    text = os.environ.get("WORLD_SIZE", "1")
    if not text.isdecimal() or int(text) < 1:
        raise InvalidInput(f"the variable WORLD_SIZE is {text!r}, expected the number of processes; unset it")
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if int(text) > 1 and missing:
        raise InvalidInput(
            f"the variable WORLD_SIZE is {text} and {', '.join(missing)} are not set; start the processes with "
            "torchrun, or unset WORLD_SIZE to train in one"
        )
    return int(text)


class Processes:
    """This process among its peers: `rank` of `count`."""

    def __init__(self, device: str = "cpu") -> None:
        self.rank, self.count = 0, _world_size()
        self._accelerator: Any = None
        if self.count > 1:
            accelerate = extras.require("train", "training in several processes", "accelerate")
            self._accelerator = accelerate.Accelerator(cpu=device == "cpu")
            self.rank = int(self._accelerator.process_index)

    @property
    def main(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """Return this process's device: with several GPUs, its own one."""
        return str(self._accelerator.device) if self._accelerator and name == "cuda" else name

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return `model` so that its backward pass averages gradients over the processes."""
        return model if self._accelerator is None else self._accelerator.prepare_model(model)

    def share(self, batch: Tensor) -> tuple[Tensor, float]:
        """Return this process's rows of a global batch `[b]`, and their weight in its mean loss.

        Gradients are averaged over processes afterwards, so the weight is rows · count / b; a process that the
        last, short batch leaves without rows computes one with weight zero, to keep in step with the others.
        """
        if self.count == 1:
            return batch, 1.0
        mine = batch[self.rank :: self.count]
        return (mine, len(mine) * self.count / len(batch)) if len(mine) else (batch[:1], 0.0)

    def mean(self, values: Tensor) -> Tensor:
        """Return `values` averaged over the processes."""
        if self._accelerator is None:
            return values
        return self._accelerator.reduce(values, reduction="mean")

    def any(self, flag: bool) -> bool:
        """Return whether `flag` is set in any process."""
        if self._accelerator is None:
            return flag
        own = torch.tensor([float(flag)], device=self._accelerator.device)  # NCCL takes nothing from the CPU
        return bool(self.mean(own).item() > 0)

    def gather(self, values: Tensor) -> list[Tensor]:
        """Return the `values` `[n]` of every process, on the CPU, by rank."""
        if self._accelerator is None:
            return [values]
        gathered = self._accelerator.gather(values.to(self._accelerator.device).unsqueeze(0))
        return [part.cpu().clone() for part in gathered]

    def wait(self) -> None:
        """Wait for the others."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Tell the others what ended the body here; raise ProcessLost, with what was told, if another one ended.

        Gloo and NCCL say of another process no more than that its connection was closed.
        """
        try:
            yield
        except BaseException as error:
            if self._accelerator is None:
                raise
            lost, cause = _is_lost_connection(error), ""
            store = torch.distributed.distributed_c10d._get_default_store()
            with suppress(RuntimeError):  # without torchrun it ends with the first process
                if not lost:
                    store.compare_set(_CAUSE, "", f"process {self.rank} of {self.count} ended: {_told(error)}")
                elif store.check([_CAUSE]):
                    cause = store.get(_CAUSE).decode()
            if not lost:
                raise
            raise ProcessLost(
                cause
                or f"another of the {self.count} processes ended, or cannot be reached; the system may have killed it, "
                "for lack of memory say; --resume continues from the last checkpoint, if there is one"
            ) from error

    def close(self) -> None:
        """Leave the group of processes."""
        if self._accelerator is not None:
            self._accelerator.end_training()
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()


def _is_lost_connection(error: BaseException) -> bool:
    """Say whether a collective call failed; Gloo's errors have no type of their own."""
    return isinstance(error, torch.distributed.DistError) or (type(error) is RuntimeError and "/gloo/" in str(error))


def _told(error: BaseException) -> str:
    return "interrupted" if isinstance(error, KeyboardInterrupt) else one_line(error)
