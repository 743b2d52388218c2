"""The loop: the same numbers as a plain loop, NaN stopped where it arose, and no host synchronisation per step."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lvm_runtime.artifact.config import make_config
from lvm_runtime.errors import InvalidInput
from lvm_runtime.models import build_model
from train.data.corpus import load_corpus
from train.data.windows import Split, VectorStore, split_windows
from train.loop import Trainer, TrainingDiverged
from train.options import TrainOptions
from train.processes import Processes
from train.run import train

SIZES = {"hidden_dim": 16, "attention_dim": 8, "bottleneck_dim": 8}


def data(windows: int = 600, dim: int = 16) -> Split:
    """Return a small synthetic corpus, split."""
    corpus = load_corpus("synthetic", windows=windows, dim=dim)
    return split_windows(corpus, np.ones(len(corpus.values), bool), VectorStore(corpus.values, "cpu"))


def trainer(split: Split, **values: object) -> Trainer:
    """Return a trainer of a small AMN."""
    options = TrainOptions(model="amn", sizes=SIZES, **values)  # type: ignore[arg-type]
    model = build_model(make_config("amn", dim=16, **SIZES), seed=0)
    return Trainer(model, split.train, options, Processes())


def test_epoch_equals_a_plain_loop() -> None:
    split = data()
    fast = trainer(split)
    loss = fast.train_epoch()
    model = build_model(make_config("amn", dim=16, **SIZES), seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.01)
    order = torch.randperm(len(split.train), generator=torch.Generator().manual_seed(0))
    vectors = split.train.store.rows(torch.arange(len(split.train.store)))
    losses = []
    for batch in split.train.starts[order].split(32):
        contexts = torch.stack([vectors[s : s + 5] for s in batch.tolist()])
        targets = torch.stack([vectors[s + 5] for s in batch.tolist()])
        value = torch.nn.functional.mse_loss(model(contexts), targets)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(value.item())
    assert loss == pytest.approx(np.mean(losses), rel=1e-5)
    for ours, theirs in zip(fast.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("longer", [True, False], ids=["clipped", "short enough"])
def test_clipping_is_torchs(longer: bool) -> None:
    subject = trainer(data(), grad_clip=1e-5 if longer else 1e5)
    starts = subject._order()[:32]
    subject.loss(*subject.windows.batch(starts), starts).backward()
    before = [p.grad.clone() for p in subject._parameters if p.grad is not None]
    subject._clip()
    after = [p.grad.clone() for p in subject._parameters if p.grad is not None]
    for parameter, gradient in zip(subject._parameters, before, strict=True):
        parameter.grad = gradient
    torch.nn.utils.clip_grad_norm_(subject._parameters, subject.options.grad_clip)
    for ours, parameter in zip(after, subject._parameters, strict=True):
        assert parameter.grad is not None
        assert torch.equal(ours, parameter.grad)


def test_order_differs_by_epoch_and_covers_everything() -> None:
    split = data()
    subject = trainer(split)
    first = subject._order()
    subject.epoch = 1
    second = subject._order()
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, second.sort().values)
    assert torch.equal(first.sort().values, split.train.starts)


def test_nan_stops_with_step_and_batch() -> None:
    split = data()
    subject = trainer(split)
    poisoned = int(subject._order()[7 * 32 + 3])
    split.train.store._resident[poisoned] = float("nan")  # type: ignore[index]
    with pytest.raises(TrainingDiverged, match=r"epoch 1 at step \d+ of") as failure:
        subject.train_epoch()
    order, step = subject._order(), int(re.search(r"at step (\d+)", str(failure.value)).group(1))  # type: ignore[union-attr]
    touched = [any(0 <= poisoned - s <= 5 for s in batch.tolist()) for batch in order.split(32)]
    assert step == touched.index(True) + 1


def test_bf16_follows_fp32() -> None:
    split = data()
    full, half = trainer(split).train_epoch(), trainer(split, precision="bf16").train_epoch()
    assert full != half
    assert half == pytest.approx(full, rel=5e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own imports
def test_compiled_follows_eager() -> None:
    split = data()
    eager, compiled = trainer(split), trainer(split, compile=True)
    assert compiled.train_epoch() == pytest.approx(eager.train_epoch(), rel=1e-5)
    for ours, theirs in zip(compiled.model.parameters(), eager.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_compiling_an_lstm_on_the_cpu_is_refused() -> None:
    options = TrainOptions(model="lstm", sizes={"hidden_dim": 16}, compile=True)
    model = build_model(make_config("lstm", dim=16, hidden_dim=16))
    with pytest.raises(InvalidInput, match="without --compile"):
        Trainer(model, data().train, options, Processes())


@pytest.mark.parametrize("schedule", ["plateau", "cosine"])
def test_schedules(schedule: str) -> None:
    subject = trainer(data(), schedule=schedule, epochs=6)
    rates = []
    for _ in range(6):
        subject.train_epoch()
        rates.append(subject.learning_rate)
        subject.end_epoch(0.5)  # no progress
    if schedule == "plateau":
        assert rates == [5e-4] * 5 + [2.5e-4]
    else:
        assert rates[-1] < 0.05 * max(rates)


def test_two_processes_follow_the_curve_of_one(tmp_path: Path) -> None:
    arguments = ["--data", "synthetic", "--windows", "1000", "--dim", "16", "--epochs", "2", "--device", "cpu"]
    arguments += ["--model", "amn", "--set", "hidden_dim=16", "--out", str(tmp_path / "two"), "--batch-size", "30"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "train"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *arguments], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("epoch 1/2") == 1
    options = TrainOptions(
        model="amn", data="synthetic", windows=1000, dim=16, epochs=2, device="cpu", batch_size=30,
        sizes={"hidden_dim": 16}, out=tmp_path / "one",
    )  # fmt: skip
    lines: list[str] = []
    train(options, lines.append)
    curve = [re.findall(r"loss (\S+)  val cosine (\S+)", text) for text in (done.stdout, "\n".join(lines))]
    assert len(curve[0]) == 2
    np.testing.assert_allclose(np.array(curve[0], float), np.array(curve[1], float), atol=2e-4, rtol=1e-4)
