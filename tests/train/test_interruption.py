"""A run that is asked to stop: when it does, what it keeps, and that it goes on as if it had not stopped."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.train.test_checkpoint import COMMAND, options, quiet, weights
from train.checkpoint import FILE
from train.loop import Trainer
from train.run import _validate, train
from train.terminal import Interruption


def test_interrupt_writes_a_checkpoint_and_stops(tmp_path: Path) -> None:
    command = [*COMMAND, "--out", str(tmp_path / "amn"), "--epochs", "200"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "amn.run" / FILE).exists():
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "--resume continues" in out
    assert err.splitlines() == ["stopping within a few steps; Ctrl-C again stops at once", "interrupted"]
    assert not (tmp_path / "amn").exists()


def test_a_second_sigterm_stops_no_sooner_than_the_first(tmp_path: Path) -> None:
    """A service manager sends one to torchrun and to its processes, which get another one from torchrun."""
    sent = [signal.SIGTERM, signal.SIGTERM, signal.SIGINT]
    with Interruption() as interruption, contextlib.suppress(KeyboardInterrupt):
        while sent:
            signal.raise_signal(sent.pop(0))
            assert interruption.requested
        pytest.fail("Ctrl-C does not stop at once")
    assert not sent


def test_a_run_that_was_stopped_in_an_epoch_tells_the_same_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rate, which a cosine changes with each step, and its seconds: here one passes with each step."""
    seconds, stop_at, step = 0, 0, Trainer._step

    def tick(self: Trainer, batch: torch.Tensor) -> None:
        nonlocal seconds
        seconds += 1
        if seconds == stop_at:
            signal.raise_signal(signal.SIGINT)
        step(self, batch)

    monkeypatch.setattr("train.loop.INTERVAL", 2)
    monkeypatch.setattr("train.run.time", SimpleNamespace(perf_counter=lambda: float(seconds)))
    monkeypatch.setattr(Trainer, "_step", tick)
    small = {"windows": 300, "batch_size": 32, "epochs": 2, "schedule": "cosine"}
    whole = train(options(tmp_path / "whole", **small), quiet).history
    stop_at = seconds + 5
    with pytest.raises(KeyboardInterrupt):
        train(options(tmp_path / "stopped", **small), quiet)
    assert train(options(tmp_path / "stopped", **small, resume=True), quiet).history == whole
    assert [record["seconds"] for record in whole] == [9, 18]
    assert whole[0]["learning_rate"] > 2 * whole[1]["learning_rate"]  # it has fallen by the last step


@pytest.mark.parametrize(("every", "steps"), [(7, [7, 14, 21, 28]), (50, []), (20, [20]), (0, [])])
def test_checkpoints_come_at_the_steps_that_were_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, steps: list[int]
) -> None:
    """Of epochs of 34 steps, each of which ends with one."""
    kept: list[int] = []
    monkeypatch.setattr("train.run.save_checkpoint", lambda path, trainer, *rest: kept.append(trainer.step))
    train(options(tmp_path / "a", epochs=2, batch_size=32, checkpoint_every=every), quiet)
    assert kept == [*steps, 0] * 2


def test_an_interrupt_after_the_last_step_stops_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left then, the figures and the proof of the artifact, may take minutes."""
    small = {"windows": 300, "epochs": 1}
    train(options(tmp_path / "whole", **small), quiet)

    def interrupted(trainer: Trainer, prepared: Any) -> dict[str, float]:
        signal.raise_signal(signal.SIGINT)
        return _validate(trainer, prepared)

    with monkeypatch.context() as patch:
        patch.setattr("train.run._validate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(options(tmp_path / "stopped", **small), quiet)
    assert not (tmp_path / "stopped").exists()
    train(options(tmp_path / "stopped", **small, resume=True), quiet)
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")


@pytest.mark.soak
def test_two_processes_that_are_stopped_in_an_epoch_tell_the_same_of_it(tmp_path: Path) -> None:
    """Each has the losses of its own rows, and one of them writes the checkpoint."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *COMMAND[1:]]
    launch += ["--windows", "3000", "--epochs", "1", "--checkpoint-every", "20"]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": os.environ | {"OMP_NUM_THREADS": "1"}}
    running = subprocess.Popen([*launch, "--out", str(tmp_path / "cut")], **pipes)
    while running.poll() is None and not (tmp_path / "cut.run" / FILE).exists():
        time.sleep(0.005)
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=120)
    assert torch.load(tmp_path / "cut.run" / FILE, weights_only=True)["step"] > 0
    subprocess.run([*launch, "--out", str(tmp_path / "cut"), "--resume"], check=True, **pipes)
    subprocess.run([*launch, "--out", str(tmp_path / "whole")], check=True, **pipes)
    cut, whole = (json.loads((tmp_path / f"{n}.run/result.json").read_text())["history"] for n in ("cut", "whole"))
    assert [record | {"seconds": 0} for record in cut] == [record | {"seconds": 0} for record in whole]
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
