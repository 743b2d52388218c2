"""The training loop against the obvious one: Dataset, DataLoader, default AdamW and `.item()` in every step.

All sides train the same model on the same windows in interleaved bursts: the obvious loop, the project's, and for
the AMN, which it helps, the project's with `--compile`. `extra_info` holds windows per second of each and its ratio to
the obvious loop. That they compute the same numbers is shown in tests/train/test_loop.py and test_forward.py;
here the losses have to end near each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lvm_runtime.artifact.config import make_config
from lvm_runtime.corpus.corpus import Corpus
from lvm_runtime.models import build_model
from lvm_runtime.selection.timing import interleave, speedup
from lvm_runtime.system.cpus import usable_cpus
from train.data.corpus import load_corpus
from train.data.windows import VectorStore, WindowSet, split_windows
from train.distributed import Processes
from train.loop import Trainer
from train.options import TrainOptions

BATCH = 32
COMPILED = "amn"
ROUNDS, SECONDS = 9, 0.4


class Samples(Dataset):
    """Windows one by one, as tensors: what a first version of a training script has."""

    def __init__(self, corpus: Corpus, windows: WindowSet) -> None:
        self.vectors = torch.from_numpy(corpus.values)
        self.starts = windows.starts.tolist()

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        start = self.starts[index]
        return self.vectors[start : start + 5], self.vectors[start + 5]


def obvious_loop(architecture: str, corpus: Corpus, windows: WindowSet) -> Iterator[float]:
    """Yield the loss of one step after another, epoch after epoch."""
    model = build_model(make_config(architecture, dim=corpus.dim), seed=0).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.01)
    loader = DataLoader(Samples(corpus, windows), batch_size=BATCH, shuffle=True)
    while True:
        for contexts, targets in loader:
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(contexts), targets)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            yield loss.item()


def our_loop(architecture: str, corpus: Corpus, windows: WindowSet, *, compile_step: bool = False) -> Iterator[Tensor]:
    """Yield after each step of the project's trainer; a loss is read once per burst, as the trainer does."""
    options = TrainOptions(model=architecture, compile=compile_step)
    model = build_model(make_config(architecture, dim=corpus.dim), seed=0)
    trainer = Trainer(model, windows, options, Processes())
    trainer.model.train()
    while True:
        for batch in trainer._order().split(BATCH):
            trainer._step(batch)
            yield trainer.losses[trainer.step]
        trainer.epoch += 1


def test_loop_against_the_obvious_one(benchmark: BenchmarkFixture, architecture: str) -> None:
    corpus = load_corpus("synthetic", windows=4000)
    store = VectorStore(corpus.values, "cpu")
    windows = split_windows(corpus, np.ones(len(corpus.values), bool), store).train
    sides: dict[str, Iterator[Any]] = {
        "ours": our_loop(architecture, corpus, windows),
        "obvious": obvious_loop(architecture, corpus, windows),
    }
    if architecture == COMPILED:
        sides["compiled"] = our_loop(architecture, corpus, windows, compile_step=True)
    steps = {name: partial(next, loop) for name, loop in sides.items()}
    torch.set_num_threads(usable_cpus())  # whatever ran before
    timings = interleave(steps, rounds=ROUNDS, seconds=SECONDS)
    benchmark.extra_info |= {
        "threads": torch.get_num_threads(),
        "windows_per_second": {name: BATCH / timing.median for name, timing in timings.items()},
        "ratio": {name: speedup(timing, timings["obvious"]) for name, timing in timings.items()},
    }
    benchmark.pedantic(steps["ours"], rounds=3)
    losses = {name: float(np.median([float(step()) for _ in range(4)])) for name, step in steps.items()}
    assert losses == pytest.approx(dict.fromkeys(sides, losses["obvious"]), rel=0.2)  # they shuffle differently
