"""The share of a batch that each process takes: together they are the batch, and their losses its mean."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from train.checkpoint import FILE
from train.distributed import Processes

FAULTY = """
import resource, signal, sys
from lvm_runtime.commands import console
from train.__main__ import command
from train.loop import Trainer

fault, step = sys.argv.pop(1), Trainer._step
if fault == "disk":  # no file may grow beyond 10 kB: a checkpoint does not fit
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))

def faulty(self, batch):
    step(self, batch)
    if fault == "nan" and self.step == 49:
        self.losses[49] = float("nan")

Trainer._step = faulty
raise SystemExit(console.run(lambda: command(sys.argv[1:], prog="train")))
"""


@pytest.mark.parametrize("rows", [1, 2, 7, 9])
def test_shares_make_up_the_batch_and_its_mean(rows: int) -> None:
    """Three processes, whose weighted means are averaged; a batch of fewer rows leaves some without."""
    batch = torch.arange(10.0, 10.0 + rows)
    taken: list[float] = []
    means = []
    for rank in range(3):
        process = Processes()
        process.rank, process.count = rank, 3
        mine, weight = process.share(batch)
        means.append(float(mine.mean()) * weight)
        taken += mine.tolist() if weight else []
    assert sorted(taken) == batch.tolist()
    assert sum(means) / 3 == pytest.approx(float(batch.mean()))


def test_flags_and_states_go_where_the_processes_meet() -> None:
    """GPUs' processes exchange nothing that lies on the CPU."""

    class Peers:
        device = torch.device("meta")
        seen: ClassVar[list[torch.Tensor]] = []

        def reduce(self, values: torch.Tensor, reduction: str) -> torch.Tensor:
            self.seen.append(values)
            return torch.tensor([0.5])

        def gather(self, values: torch.Tensor) -> torch.Tensor:
            self.seen.append(values)
            return torch.arange(6, dtype=torch.uint8).reshape(2, 3)

    process = Processes()
    process._accelerator = Peers()
    assert process.any(False)
    assert [part.tolist() for part in process.gather(torch.zeros(3, dtype=torch.uint8))] == [[0, 1, 2], [3, 4, 5]]
    assert [(values.device, tuple(values.shape)) for values in Peers.seen] == [
        (Peers.device, (1,)),
        (Peers.device, (1, 3)),
    ]


@pytest.mark.parametrize(("fault", "rank"), [("nan", 1), ("disk", 0), ("killed", 1)])
def test_what_ends_one_process_is_told_by_the_other(tmp_path: Path, fault: str, rank: int) -> None:
    """Where they meet outlives each of them, as under torchrun, but nobody ends the other one as torchrun would.

    Gloo alone says that a connection was closed.
    """
    script, out, root = tmp_path / "faulty.py", tmp_path / "amn", str(Path(__file__).parents[2])
    script.write_text(FAULTY)
    meeting = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(meeting.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    common = ["--model", "amn", "--data", "synthetic", "--windows", "4000", "--dim", "16", "--set", "hidden_dim=16"]
    common += ["--device", "cpu", "--epochs", "999", "--out", str(out), "--checkpoint-every", "50"]
    running = [
        subprocess.Popen(
            [sys.executable, str(script), fault if own == rank else "none", *common],
            env=os.environ | place | {"WORLD_SIZE": "2", "RANK": str(own), "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for own in range(2)
    ]  # fmt: skip
    if fault == "killed":
        while running[rank].poll() is None and not (tmp_path / "amn.run" / FILE).exists():
            time.sleep(0.01)
        running[rank].send_signal(signal.SIGKILL)
    said = [process.communicate(timeout=120)[1] for process in running]
    cause = {
        "nan": f"process {rank} of 2 ended: the loss became nan in epoch 1 at step 50",
        "disk": f"process {rank} of 2 ended: {out}.run/{FILE}: cannot be written (File too large)",
        "killed": "another of the 2 processes ended, or cannot be reached; the system may have killed it",
    }[fault]
    other = said[1 - rank]
    assert other.startswith(f"error: {cause}"), other
    assert len(other.splitlines()) == 1
    assert all(process.returncode for process in running)
